"""The Hokusai MLflow proxy: create_app builds the parts, mounts them, and stops there.

The request's way is in proxy.py; docs/architecture.md draws it.
"""

import secrets
from collections.abc import Callable
from pathlib import Path

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface

from app import mounting, proxy, responses
from app.auth.authentication import Authenticator
from app.auth.cache import VerdictCache
from app.auth.client import AuthService
from app.auth.revocations import Revocations
from app.auth.sessions import Sessions
from app.auth.single_flight import SingleFlight
from app.browser import mounting as browser
from app.limits.request_limits import InFlight, Limits, shared_limiter
from app.observability import audit
from app.observability.metrics import count_circuit_change
from app.request.inbound import without_empty_segment
from app.request.route_table import RouteTable
from app.request.unknown_paths import UnknownPaths
from app.state.circuits import CircuitBoard
from app.state.instance_store import FILE, InstanceStore
from app.state.redis_link import RedisLink
from app.upstream.buffered_bodies import BufferedBodies
from app.upstream.circuit import Circuit
from app.upstream.forwarding import Upstream
from app.upstream.workspaces import Workspaces
from config import Settings


def create_app(settings: Settings) -> Flask:
    """The WSGI application for these settings. Connects to nothing yet."""
    app = Flask("app", static_folder=None)
    app.session_interface = _NoSessions()
    app.url_map.merge_slashes = False  # `//` is refused by the walk, not redirected
    app.url_map.strict_slashes = True

    store = InstanceStore(_in_folder(settings, FILE))
    link = RedisLink(settings.redis_url, settings.redis_timeout, settings.redis_retry_interval)

    def on_change(name: str, state: str) -> None:
        board.note(name, state)
        count_circuit_change(name, state)

    circuit = Circuit(
        "mlflow", settings.circuit_fail_max, settings.circuit_reset_timeout, on_change
    )
    upstream = Upstream(settings, circuit)
    auth_service = _auth_service(settings, on_change)
    board = CircuitBoard(store, (circuit, auth_service.circuit))
    cache = _verdict_cache(settings, link, store)
    sessions = Sessions(
        link, store, cache.is_ended, settings.session_lifetime, settings.session_idle
    )
    routes = RouteTable.load()
    limits = _limits(settings, link, store)
    parts = proxy.Parts(
        routes=routes,
        unknown_paths=UnknownPaths(routes),
        authenticator=_authenticator(settings, cache, auth_service, sessions, limits),
        limits=limits,
        in_flight=InFlight(settings.max_in_flight_per_key, settings.max_forwarded),
        upstream=upstream,
        workspaces=Workspaces(upstream.ask, settings.health_timeout),
        trusted_hops=settings.trusted_proxy_hops,
        buffered_bodies=BufferedBodies(settings.max_buffered_body, settings.max_buffered_total),
    )
    hops, target = settings.trusted_proxy_hops, settings.mlflow_server_url
    app.wsgi_app = without_empty_segment(app.wsgi_app)  # type: ignore[method-assign]
    responses.install(app, hops, target, audit.write)
    revocations = Revocations(link, cache)
    results = mounting.mount(app, settings, parts, auth_service, link, store, board, revocations)
    app.register_blueprint(proxy.blueprint(parts))
    browser.mount(app, settings, parts, sessions, results, store)
    revocations.start()
    return app


class _NoSessions(SessionInterface):
    """Flask's sessions are not used: nothing is looked for, made or saved for a request."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._none

    def is_null_session(self, obj: object) -> bool:
        return True


def _auth_service(settings: Settings, on_change: Callable[[str, str], None]) -> AuthService:
    """The auth service, with a circuit that is not MLflow's and probes as often as a key does."""
    interval, fail_max = settings.auth_retry_interval, settings.circuit_fail_max
    return AuthService(
        settings.auth_service_url,
        settings.auth_service_id,
        settings.auth_timeout,
        max(1, round(interval)),
        Circuit("auth_service", fail_max, interval, on_change),
    )


def _authenticator(
    settings: Settings,
    cache: VerdictCache,
    auth_service: AuthService,
    sessions: Sessions,
    limits: Limits,
) -> Authenticator:
    """From key or session to principal. One waits for another's question longer than it takes."""
    return Authenticator(
        cache,
        SingleFlight(_in_folder(settings, "turns")),
        auth_service,
        settings.auth_service_id,
        2 * settings.auth_timeout,
        settings.auth_retry_interval,
        sessions.principal,
        failures=limits,
    )


def _limits(settings: Settings, link: RedisLink, store: InstanceStore) -> Limits:
    """The counted limits."""
    return Limits(
        # An app of its own: flask-limiter's hooks would run on each request, to no purpose.
        shared_limiter(Flask("limits"), link),
        link,
        store,
        settings.instances,
        settings.auth_failure_limit,
    )


def _verdict_cache(settings: Settings, link: RedisLink, store: InstanceStore) -> VerdictCache:
    """The cache; without gunicorn.conf.py, which sets one for all, its secret is made up."""
    return VerdictCache(
        link,
        store,
        settings.auth_cache_secret.encode() or secrets.token_bytes(32),
        settings.auth_cache_ttl,
        settings.auth_negative_ttl,
        settings.auth_stale_ttl,
        settings.session_lifetime,
    )


def _in_folder(settings: Settings, name: str) -> Path | None:
    """A file that the workers of this instance share; gunicorn.conf.py sets the folder."""
    return Path(settings.instance_folder) / name if settings.instance_folder else None
