"""A Falcon application under Tracker; endpoints are its templates.

$ pip install wsgi-tracker gunicorn falcon
$ gunicorn --chdir examples falcon_app:app
"""

import falcon

from wsgi_tracker import Tracker
from wsgi_tracker.integrations.falcon import EndpointMiddleware

BOXES = {1: "small", 2: "large"}


class Boxes:
    def on_get(self, request, response):
        response.media = list(BOXES.values())


class Box:
    def on_get(self, request, response, box_id):
        if box_id not in BOXES:
            raise falcon.HTTPNotFound
        response.media = {"box": BOXES[box_id]}


shop = falcon.App(middleware=[EndpointMiddleware()])
shop.add_route("/boxes", Boxes())
shop.add_route("/boxes/{box_id:int}", Box())

app = Tracker(shop)
