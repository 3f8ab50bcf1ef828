"""A Flask application under Tracker; endpoints are its rules.

$ pip install wsgi-tracker gunicorn flask
$ gunicorn --chdir examples flask_app:app
"""

from flask import Flask, abort

from wsgi_tracker import Tracker

BOXES = {1: "small", 2: "large"}

app = Flask(__name__)
app.wsgi_app = Tracker(app.wsgi_app)


@app.get("/boxes")
def boxes():
    return list(BOXES.values())


@app.get("/boxes/<int:box_id>")
def box(box_id):
    return {"box": BOXES.get(box_id) or abort(404)}
