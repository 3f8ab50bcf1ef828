"""gunicorn in production, with an application that Tracker wraps.

$ export WSGI_TRACKER_TOKEN=$(python -c "import secrets; print(secrets.token_urlsafe())")
$ mkdir -p /var/lib/shop
$ gunicorn -c examples/production/gunicorn.conf.py \\
    "wsgi_tracker:wrap('shop:app', '/var/lib/shop/visits.db')"
"""

import multiprocessing
import os

# Reports need the token, and every worker the same one: it comes from the environment, not from a
# file that is under version control.
if not os.environ.get("WSGI_TRACKER_TOKEN"):
    raise RuntimeError("set WSGI_TRACKER_TOKEN, see the first lines of this file")

bind = os.environ.get("BIND", "127.0.0.1:8000")

# Workers share one database; one of them at a time ingests for all.
workers = multiprocessing.cpu_count() * 2 + 1
worker_class = "gthread"
threads = 4

# The application, and Tracker, are loaded once: nothing is open in Tracker when workers fork.
preload_app = True

# Workers that leave lose no visit; jitter keeps them from leaving together.
max_requests = 10_000
max_requests_jitter = 1_000

# Time for a worker to finish its requests, and its last batch of visits.
graceful_timeout = 30

# Behind a proxy on this machine: gunicorn takes the URL's scheme from it, never the client's
# address, so tell Tracker as well whom to believe: wrap('shop:app', trusted_proxies=['127.0.0.1']).
forwarded_allow_ips = "127.0.0.1"

accesslog = None  # visits are in the database
