"""The one Django project of all tests: a process can configure Django only once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings
from django.urls import clear_url_caches

COMMON = ["django.middleware.common.CommonMiddleware"]
urlpatterns: list[Any] = []

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="a test's own",
    LOGGING_CONFIG=None,
)
django.setup()


def django_handler(patterns: list[Any], middleware: Sequence[str], **handlers: Any) -> WSGIHandler:
    """Return the application; ``handlers`` are those of errors, as ``handler404``.

    It serves these patterns until the next call.
    """
    urlpatterns[:] = patterns
    for name in ("handler404", "handler500"):
        globals().pop(name, None)
    globals().update(handlers)
    clear_url_caches()
    with override_settings(MIDDLEWARE=middleware):
        return WSGIHandler()
