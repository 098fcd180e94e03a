"""The pool of connections to MLflow: sizes, timeouts, and detection of a lost host."""

import socket
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.util.ssl_ import create_urllib3_context

from app.upstream.connection import Connection, ConnectionTLS
from config import Settings

#: Detects a host that vanished silently, and keeps intermediaries from dropping a connection that
#: waits for a long copy. Some platforms lack these names.
KEEPALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
]


def open_pool(settings: Settings, size: int, probes: bool = False) -> urllib3.HTTPConnectionPool:
    """Return a pool that keeps `size` idle connections and opens more when needed. `probes` marks
    the pool of the liveness probe."""
    parts = urlsplit(settings.mlflow_server_url)
    is_tls = parts.scheme == "https"
    pool_class = urllib3.HTTPSConnectionPool if is_tls else urllib3.HTTPConnectionPool
    options: dict[str, Any] = {}
    if is_tls:  # one context for all: urllib3 would load the authorities for each connection, and
        # the worker would serve nobody for 20 ms
        options["ssl_context"] = create_urllib3_context()
        options["ssl_context"].load_default_certs()
    pool = pool_class(parts.hostname or "", parts.port, maxsize=size, block=False, **options)
    pool.conn_kw["socket_options"] = [*HTTPConnection.default_socket_options, *KEEPALIVE]
    limits = {
        "reuse_for": settings.mlflow_keepalive,
        "max_age": settings.mlflow_connection_max_age,
        "send_timeout": settings.mlflow_artifact_read_timeout,
        "upload_timeout": settings.mlflow_artifact_copy_timeout,
        "held": (ConnectionError, TimeoutError) if probes else (ConnectionError,),
    }
    base = ConnectionTLS if is_tls else Connection
    pool.ConnectionCls = type(base.__name__, (base,), limits)
    return pool
