"""Access logs of web servers: each line becomes an entry.

Pure functions: nothing here opens a file, or knows of visits and storage.
"""

from __future__ import annotations

from .detect import FORMATS, detect, log_format
from .entry import BadLineError, LogEntry, LogFormat

__all__ = ["FORMATS", "BadLineError", "LogEntry", "LogFormat", "detect", "log_format"]
