"""Track the visits of any WSGI application: ``app = Tracker(app)``."""

import os

if os.name != "posix":
    raise ImportError("wsgi_tracker runs on Linux and macOS: its spool relies on POSIX file locks")

from .errors import ConfigurationError, QueryError, StorageError, TrackerError
from .middleware import Tracker, wrap
from .storage import open_storage
from .visit import Visit

__all__ = [
    "ConfigurationError",
    "QueryError",
    "StorageError",
    "Tracker",
    "TrackerError",
    "Visit",
    "open_storage",
    "wrap",
]
__version__ = "0.1.0"
