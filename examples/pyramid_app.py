"""A Pyramid application under Tracker; endpoints are its patterns.

$ pip install wsgi-tracker gunicorn pyramid
$ gunicorn --chdir examples pyramid_app:app
"""

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPNotFound

from wsgi_tracker import Tracker

BOXES = {"1": "small", "2": "large"}


def boxes(request):
    return list(BOXES.values())


def box(request):
    name = BOXES.get(request.matchdict["box_id"])
    if name is None:
        raise HTTPNotFound
    return {"box": name}


with Configurator() as config:
    config.include("wsgi_tracker.integrations.pyramid")
    config.add_route("boxes", "/boxes")
    config.add_route("box", "/boxes/{box_id}")
    config.add_view(boxes, route_name="boxes", renderer="json")
    config.add_view(box, route_name="box", renderer="json")
    app = Tracker(config.make_wsgi_app())
