"""gunicorn in production: `gunicorn -c gunicorn.conf.py wsgi:app`. Each line that deviates from the
defaults states the reason; settings come from config/."""

import os
import sys

from app.server import arbiter, heartbeat, instance, logs, metric_files, open_files
from app.server.client_head import MOST_FIELDS
from app.server.hooks import harmless, hooks_of
from app.server.worker import ProxyWorker
from config import BadSettings, load

try:
    settings = load(os.environ)
except BadSettings as bad:
    sys.exit(str(bad))  # every error at once, no traceback, no value

instance.prepare(settings, os.environ)

bind = settings.bind
workers = settings.web_concurrency
worker_connections = open_files.make_room(settings.max_connections, os.environ)

# Slow and stalled clients cost a greenlet, not a thread: docs/decisions/worker-class.md.
worker_class = ProxyWorker
ProxyWorker.client_idle_timeout = settings.client_idle_timeout
ProxyWorker.client_request_timeout = settings.client_request_timeout
ProxyWorker.drain_delay = settings.drain_delay

# Above the ALB's idle timeout of 60 s, or it sends a request into a connection that is closing.
keepalive = settings.keepalive
# Transfers in progress may finish; below the orchestrator's stop timeout.
graceful_timeout = settings.graceful_timeout
# Seconds without a heartbeat from a worker's loop, not the length of a request; below LIFETIME in
# app/state/circuits.py.
timeout = 60
# No restart after N requests: it cuts long streams. Memory is bounded by design.
max_requests = 0

# The head is bounded in total bytes, not by line and field: app/server/client_head.py.
limit_request_fields = MOST_FIELDS
# The C parser accepts bare LF and folded headers, and "auto" would use it where it is installed.
http_parser = "python"
# By default, a trusted peer's client can send Script_Name and change the path after authorization.
forwarder_headers = ""
# The proxy reads X-Forwarded-Proto itself, by TRUSTED_PROXY_HOPS.
secure_scheme_headers: dict[str, str] = {}
# Names with underscores could fold into identity headers.
header_map = "drop"
# A second gunicorn would delete the first one's control socket.
control_socket_disable = True
# The workers' heartbeat files need no folder.
heartbeat.install()
# The master survives failures while workers still serve.
arbiter.install()

# The proxy writes one access line per request itself, after the last byte.
accesslog = None
logger_class = logs.NoAccessLog
logconfig_dict = logs.dict_config(settings)
proc_name = "hokusai-mlflow-proxy"


@harmless
def post_worker_init(worker):  # type: ignore[no-untyped-def]
    """Start the tasks beside the requests: see Services.start in app/services.py."""
    if hooks := hooks_of(worker):
        hooks.start()


@harmless
def worker_exit(server, worker):  # type: ignore[no-untyped-def]
    """Report the last counts. The master calls this, too, for a worker long gone."""
    if worker.pid == os.getpid() and (hooks := hooks_of(worker)):
        hooks.stop()


@harmless
def child_exit(server, worker):  # type: ignore[no-untyped-def]
    """Merge a dead worker's metrics: its gauges must not count on, and its counters not slow each
    scrape. Restore the folder for the next worker."""
    instance.restore(os.environ)
    metric_files.merge_dead(instance.metrics_folder(os.environ))


@harmless
def on_exit(server):  # type: ignore[no-untyped-def]
    """Remove the folder that was made for this instance."""
    instance.forget(os.environ)
