"""Connections to the auth service: MLflow's bounds and timeouts, adapted to requests."""

from http.cookiejar import DefaultCookiePolicy
from typing import Any

import certifi
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

from app.upstream.connection import Connection
from app.upstream.request_head import TARGET

#: Seconds for which a connection is reused: after its last use, as gunicorn closes it 2 s later and
#: uvicorn 5 s, and after connecting, as the service's name may move.
MAX_IDLE, MAX_AGE = 1.0, 60.0


def bare_session(url: str) -> requests.Session:
    """Build a session that adds nothing to a request: no .netrc, no proxy variables (trust_env), no
    cookie carried from one response to the next request. No retries: the caller decides."""
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    scheme = url.partition(":")[0].lower()
    adapter = _AdapterTLS if scheme == "https" else _Adapter
    session.mount(f"{scheme}://", adapter(pool_maxsize=16))
    return session


class _Connection(Connection):
    """MLflow's Connection with its bounds and its write timeout, adapted to requests."""

    reuse_for = MAX_IDLE
    max_age = MAX_AGE
    counted = False
    held = (ConnectionError, TimeoutError)  # so of two addresses, one that hangs is tried last

    def request(
        self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any
    ) -> None:
        """Send the request with the target and the Host that http.client would add."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != self.default_port:
            host = f"{host}:{self.port}"
        super().request(method, url, body, {**headers, TARGET: url, "Host": host}, **options)


class _ConnectionTLS(_Connection, HTTPSConnection):
    """_Connection over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _PoolTLS(HTTPSConnectionPool):
    ConnectionCls = _ConnectionTLS


class _Adapter(HTTPAdapter):  # makes requests use these connections
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}


class _AdapterTLS(_Adapter):
    """Adapter that trusts the CAs of MLflow's connections (the system store, or SSL_CERT_FILE) and
    certifi's, the only ones that requests would trust. Loading them takes 60 ms of CPU."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        trust = create_urllib3_context()
        trust.load_default_certs()
        trust.load_verify_locations(certifi.where())
        super().init_poolmanager(*arguments, **options, ssl_context=trust)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Called for each request. The base class would reload certifi's CAs each time."""
        conn.cert_reqs = "CERT_REQUIRED"
