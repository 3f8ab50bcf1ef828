"""How to start each WSGI server, in a folder where its application finds all that it imports.

Servers of the operating system bring a Python of their own, which knows nothing of this one's
packages; and Apache's processes, started by root, are another user, who cannot read them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import servers
from needs import require
from servers import Server

HERE = Path(__file__).parent
GUNICORN_WORKERS = 4
WORKER_CLASSES = {
    "sync": [],
    "gthread": ["--threads", "4"],
    "gevent": [],
}
APACHE_MODULES = Path("/usr/lib/apache2/modules")
APACHE_CONFIGURATION = """\
ServerName localhost
DefaultRuntimeDir {folder}
WSGISocketPrefix {folder}/wsgi
PidFile {folder}/apache.pid
ErrorLog /dev/stderr
LogLevel info
LoadModule mpm_{mpm}_module {modules}/mod_mpm_{mpm}.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule wsgi_module {modules}/mod_wsgi.so
{directives}
WSGIPassAuthorization On
WSGIScriptAlias / {folder}/app.wsgi
<Directory {folder}>
Require all granted
</Directory>
"""
APACHE_USER = "www-data"
UWSGI_STATS = "stats.socket"


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """Make a folder that other users can reach, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def gunicorn(*options: str, workers: int = GUNICORN_WORKERS) -> Callable[[Path], Server]:
    """Start a gunicorn with ``options``; it has this Python, and needs no copies."""

    def start(folder: Path) -> Server:
        return servers.gunicorn(
            "faultapp:tracked()",
            folder=folder,
            workers=workers,
            # gunicorn's gevent workers do not hear a SIGTERM that comes while they start.
            options=["--graceful-timeout", "3", *options],
            python_path=[HERE],
            environ=_environ(folder),
        )

    return start


def waitress(folder: Path) -> Server:
    """Start waitress as its manual says."""
    command = [
        sys.executable,
        "-m",
        "waitress",
        "--listen=127.0.0.1:0",
        "--call",
        "faultapp:tracked",
    ]
    return _server(folder, command, listening=r"Serving on http://127\.0\.0\.1:(\d+)")


def wsgiref(folder: Path) -> Server:
    """Start the standard library's server."""
    return _script(
        folder,
        "from wsgiref.simple_server import make_server; from faultapp import tracked\n"
        "server = make_server('127.0.0.1', 0, tracked())\n"
        "print('port', server.server_port, file=sys.stderr, flush=True)\n"
        "with contextlib.suppress(KeyboardInterrupt):\n"
        "    server.serve_forever()\n",
        listening=r"port (\d+)",
    )


def werkzeug(*options: str) -> Callable[[Path], Server]:
    """Start Werkzeug's development server with ``options``."""

    def start(folder: Path) -> Server:
        return _script(
            folder,
            "from werkzeug import run_simple; from faultapp import tracked\n"
            f"run_simple('127.0.0.1', 0, tracked(), {', '.join(options)})\n",
            listening=r"Running on http://127\.0\.0\.1:(\d+)",
        )

    return start


def uwsgi(*options: str) -> Callable[[Path], Server]:
    """Start a uWSGI with two workers and ``options``."""

    def start(folder: Path) -> Server:
        plugins = list(Path("/usr/lib/uwsgi/plugins").glob("python3*_plugin.so"))
        require(shutil.which("uwsgi") and plugins, "uWSGI (uwsgi-core, uwsgi-plugin-python3)")
        command = ["uwsgi", "--plugin", "python3", "--module", "faultapp:tracked()", "--need-app"]
        command += ["--http-socket", "127.0.0.1:0", "--master", "--processes", "2"]
        command += ["--stats", UWSGI_STATS]
        return _server(
            folder,
            [*command, "--die-on-term", *options],
            listening=r"127\.0\.0\.1:(\d+) \(port auto-assigned\).*spawned uWSGI worker 2",
            workers=2,
            own_signal=signal.SIGUSR2,
        )

    return start


def uwsgi_rests(folder: Path) -> bool:
    """Say whether no worker is amid a request, which outlasts its answer by a moment."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / UWSGI_STATS))
        with client.makefile("rb") as answer:
            workers = json.load(answer)["workers"]
    return not any(core["in_request"] for worker in workers for core in worker["cores"])


def mod_wsgi(mpm: str, *directives: str) -> Callable[[Path], Server]:
    """Start an Apache with a configuration of its own."""

    def start(folder: Path) -> Server:
        apache = shutil.which("apache2", path=os.pathsep.join([os.defpath, "/usr/sbin"]))
        require(
            apache and (APACHE_MODULES / "mod_wsgi.so").exists(),
            "mod_wsgi (apache2-bin, libapache2-mod-wsgi-py3)",
        )
        (folder / "app.wsgi").write_text("from faultapp import tracked\napplication = tracked()\n")
        (folder / "apache.conf").write_text(
            APACHE_CONFIGURATION.format(
                folder=folder,
                mpm=mpm,
                modules=APACHE_MODULES,
                directives="\n".join([*directives, *_apache_user(folder)]),
            )
        )
        # Apache logs its command, and so the port.
        command = [str(apache), "-C", "Listen 127.0.0.1:{port}", "-f", str(folder / "apache.conf")]
        return _server(
            folder,
            [*command, "-D", "FOREGROUND"],
            listening=r"Command line: .*Listen 127\.0\.0\.1:(\d+)",
        )

    return start


def mod_wsgi_daemons(folder: Path) -> Server:
    """Start an Apache whose two daemons run the application."""
    daemons = ["WSGIDaemonProcess own processes=2 threads=4", "WSGIProcessGroup own"]
    return mod_wsgi("event", *daemons)(folder)


def mod_wsgi_embedded(folder: Path) -> Server:
    """Start an Apache that runs the application in its own processes."""
    return mod_wsgi("prefork", "StartServers 2", "MaxRequestWorkers 3")(folder)


def _apache_user(folder: Path) -> Sequence[str]:
    """Give the folder to whom Apache's processes are, where it may not be us."""
    if os.getuid():
        return []
    user = pwd.getpwnam(APACHE_USER)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return [f"User {APACHE_USER}", f"Group #{user.pw_gid}"]


def _script(folder: Path, script: str, *, listening: str) -> Server:
    return _server(
        folder, [sys.executable, "-c", f"import contextlib, sys; {script}"], listening=listening
    )


def _server(folder: Path, command: Sequence[str], *, listening: str, **options: Any) -> Server:
    packages = folder / "packages"
    for name in ("wsgi_tracker", "werkzeug", "markupsafe"):
        specification = importlib.util.find_spec(name)
        assert specification is not None
        assert specification.origin is not None
        shutil.copytree(Path(specification.origin).parent, packages / name)
    shutil.copy(HERE / "faultapp.py", packages)
    return Server(
        command,
        listening=listening,
        folder=folder,
        python_path=[packages],
        environ=_environ(folder),
        **options,
    )


def _environ(folder: Path) -> dict[str, str]:
    # Development mode would only make the servers slower here.
    return {"FAULTS_DATABASE": str(folder / "visits.db"), "PYTHONDEVMODE": ""}
