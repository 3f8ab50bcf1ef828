"""Run against the installed wheel, from an empty folder: is all there, and does it work?"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
import subprocess
import sys
from pathlib import Path

import wsgi_tracker
from wsgi_tracker.dashboard import NAMES


def app(environ, start_response):  # type: ignore[no-untyped-def]
    start_response("200 OK", [])
    return [b"hello"]


def check_command(version: str) -> None:
    """The command runs, with the extra; without it, it says in one line how to get it."""
    command = [Path(sys.executable).with_name("wsgi-tracker"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    if importlib.util.find_spec("click"):
        expected = (0, f"wsgi-tracker, version {version}\n", "")
    else:
        needed = "the command line needs click and rich: pip install 'wsgi-tracker[cli]'\n"
        expected = (1, "", needed)
    assert (done.returncode, done.stdout, done.stderr) == expected, done


def main() -> None:
    package = importlib.resources.files("wsgi_tracker")
    installed = importlib.metadata.distribution("wsgi-tracker")
    assert "site-packages" in str(package), f"tested is the checkout: {package}"
    assert package.joinpath("py.typed").is_file()
    assert package.joinpath("storage/sqlite/schema.sql").is_file()
    assert package.joinpath("integrations/django.py").is_file()
    assert all(package.joinpath("dashboard", name).is_file() for name in NAMES)
    assert installed.version == wsgi_tracker.__version__
    assert not any(str(file).startswith("tests") for file in installed.files or ())

    with wsgi_tracker.Tracker(app, Path("package.db")) as tracked:
        assert b"".join(tracked({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, print)) == b"hello"
        report = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/tracking/summary"}
        assert b'"total_hits": 1' in b"".join(tracked(report, lambda status, headers: print))
        page = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/tracking/dashboard"}
        assert b"<!doctype html>" in b"".join(tracked(page, lambda status, headers: print))
    check_command(installed.version)
    print(f"wsgi-tracker {installed.version} is whole")


if __name__ == "__main__":
    main()
