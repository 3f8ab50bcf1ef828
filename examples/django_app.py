"""A Django project in one file under Tracker; endpoints are its routes.

$ pip install wsgi-tracker gunicorn django
$ gunicorn --chdir examples django_app:application
"""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import Http404, JsonResponse
from django.urls import path

from wsgi_tracker import Tracker

BOXES = {1: "small", 2: "large"}

if not settings.configured:
    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="an example's own",
        MIDDLEWARE=["wsgi_tracker.integrations.django.EndpointMiddleware"],
    )


def boxes(request):
    return JsonResponse({"boxes": list(BOXES.values())})


def box(request, box_id):
    if box_id not in BOXES:
        raise Http404
    return JsonResponse({"box": BOXES[box_id]})


urlpatterns = [path("boxes", boxes), path("boxes/<int:box_id>", box)]

application = Tracker(get_wsgi_application())
