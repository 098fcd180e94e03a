"""gunicorn's settings for `serve`: one quiet worker that ends at once.

All that gunicorn would take from the environment or a file is set here, because the environment
and the folder are often the proxy's: WEB_CONCURRENCY and gunicorn.conf.py mean that one.
"""

import signal
from typing import Any

from devstack.auth_service import logs, settings

_settings = settings.load()

bind = _settings.bind
workers = 1
worker_class = "gthread"
threads = 32  # a client that stalls in mid-request holds one for as long as it likes
preload_app = True  # the application's complaints come before the first connection
http_parser = "python"
keepalive = 75  # seconds; longer than a client keeps an idle connection
timeout = 30  # seconds
graceful_timeout = 5  # seconds; it ends at once, unless the machine is busy
control_socket_disable = True  # by default there is one in the home folder
loglevel = _settings.log_level
accesslog = None


def on_starting(server: Any) -> None:
    """Set up logging before the worker exists, so that it inherits it."""
    logs.configure(_settings.log_level)


def when_ready(server: Any) -> None:
    """Say where the service listens, which a bind to port 0 leaves open, and stop on signals.

    SIGTERM is treated as SIGINT: gunicorn's graceful stop would wait for kept-alive connections
    to be used once more, which is worth nothing here.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: server.signal(signal.SIGINT, frame))
    print(f"The auth service listens at {server.LISTENERS[0]}", flush=True)
