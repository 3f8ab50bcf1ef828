"""A Bottle application under Tracker; endpoints are its rules.

$ pip install wsgi-tracker gunicorn bottle
$ gunicorn --chdir examples bottle_app:app
"""

from bottle import Bottle, abort

from wsgi_tracker import Tracker

BOXES = {1: "small", 2: "large"}

shop = Bottle()


@shop.get("/boxes")
def boxes():
    return {"boxes": list(BOXES.values())}


@shop.get("/boxes/<box_id:int>")
def box(box_id):
    return {"box": BOXES.get(box_id) or abort(404)}


app = Tracker(shop)
