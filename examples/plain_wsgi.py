"""A plain WSGI application under Tracker.

$ pip install wsgi-tracker gunicorn
$ gunicorn --chdir examples plain_wsgi:app
"""

from wsgi_tracker import Tracker

BOXES = {"small": 2, "large": 5}


def shop(environ, start_response):
    name = environ["PATH_INFO"].removeprefix("/boxes/")
    if environ["PATH_INFO"] == "/boxes":
        status, lines = "200 OK", [f"{box}: {price}\n" for box, price in BOXES.items()]
    elif name in BOXES:
        status, lines = "200 OK", [f"A {name} box costs {BOXES[name]}.\n"]
        environ["wsgi_tracker.endpoint"] = "/boxes/{name}"  # else every path is an endpoint
    else:
        status, lines = "404 Not Found", ["No such page.\n"]
    start_response(status, [("Content-Type", "text/plain")])
    return (line.encode() for line in lines)


app = Tracker(shop)
