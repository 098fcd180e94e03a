"""The Hokusai MLflow proxy: create_app builds the parts, mounts them, and stops there.

The request's way is in proxy.py; docs/architecture.md draws it.
"""

import secrets
from pathlib import Path

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface

from app import proxy, responses
from app.auth_service import AuthService
from app.authentication import Authenticator
from app.browser import assets, sign_in, status
from app.browser.samples import Samples
from app.browser.sessions import Sessions
from app.circuit import Circuit
from app.forwarding import Upstream
from app.instance_store import InstanceStore
from app.limits import InFlight, Limits, shared_limiter
from app.metrics import count_circuit_change
from app.operations import commands, health, metrics_page
from app.operations.checks import HealthChecks, overall
from app.redis_link import RedisLink
from app.revocations import Revocations
from app.route_table import RouteTable
from app.single_flight import SingleFlight
from app.verdict_cache import VerdictCache
from config import Settings


def create_app(settings: Settings) -> Flask:
    """The WSGI application for these settings. Connects to nothing yet."""
    app = Flask(__name__, static_folder=None)
    app.session_interface = _NoSessions()
    app.url_map.merge_slashes = False  # `//` is refused by the walk, not redirected
    app.url_map.strict_slashes = True

    store = InstanceStore(_in_folder(settings, "shared.db"))
    link = RedisLink(settings.redis_url, settings.redis_timeout, settings.redis_retry_interval)
    circuit = Circuit(
        "mlflow", settings.circuit_fail_max, settings.circuit_reset_timeout, count_circuit_change
    )
    upstream = Upstream(settings, circuit)
    auth_service = _auth_service(settings)
    cache = _verdict_cache(settings, link, store)
    sessions = Sessions(
        link, store, cache.is_ended, settings.session_lifetime, settings.session_idle
    )
    authenticator = Authenticator(
        cache,
        SingleFlight(_in_folder(settings, "turns")),
        auth_service,
        settings.auth_service_id,
        2 * settings.auth_timeout,
        settings.auth_retry_interval,
        sessions.principal,
    )
    limits = Limits(
        # An app of its own: flask-limiter's hooks would run on each request, to no purpose.
        shared_limiter(Flask("limits"), link),
        link,
        store,
        settings.instances,
        settings.auth_failure_limit,
    )
    checks = HealthChecks(upstream, link, auth_service, circuit, settings.health_timeout)
    state = health.Health(checks, settings.health_cache_ttl)
    hops = settings.trusted_proxy_hops

    parts = proxy.Parts(
        routes=RouteTable.load(),
        authenticator=authenticator,
        limits=limits,
        in_flight=InFlight(settings.max_in_flight_per_key, settings.max_in_flight),
        upstream=upstream,
        trusted_hops=hops,
        max_buffered_body=settings.max_buffered_body,
    )
    responses.install(app, hops, settings.mlflow_server_url)
    app.register_blueprint(health.blueprint(state, authenticator, limits, upstream, hops))
    app.register_blueprint(metrics_page.blueprint())
    app.register_blueprint(proxy.blueprint(parts))
    samples = Samples(metrics_page.registry, store)
    _mount_browser(app, parts, sessions, state, samples)
    app.extensions["hokusai-health"] = state
    revocations = Revocations(link, cache)
    revocations.start()
    samples.start()
    app.cli.add_command(
        commands.revoke(revocations, settings.auth_cache_ttl, settings.auth_stale_ttl)
    )
    return app


def _mount_browser(
    app: Flask, parts: proxy.Parts, sessions: Sessions, state: health.Health, samples: Samples
) -> None:
    """Sign-in, the status page, and MLflow's static files, which walk like all else."""
    who = sign_in.SignIn(parts.authenticator, parts.limits, sessions, parts.trusted_hops)
    asked = status.Asked(state.checks, overall, lambda: health.internals(parts.upstream), samples)
    app.register_blueprint(assets.blueprint(parts.walk))
    app.register_blueprint(sign_in.blueprint(who))
    app.register_blueprint(status.blueprint(asked, who.asking))


class _NoSessions(SessionInterface):
    """Flask's sessions are not used: nothing is looked for, made or saved for a request."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._none

    def is_null_session(self, obj: object) -> bool:
        return True


def _auth_service(settings: Settings) -> AuthService:
    """The auth service, with a circuit that is not MLflow's and probes as often as a key does."""
    interval, fail_max = settings.auth_retry_interval, settings.circuit_fail_max
    return AuthService(
        settings.auth_service_url,
        settings.auth_service_id,
        settings.auth_timeout,
        max(1, round(interval)),
        Circuit("auth_service", fail_max, interval, count_circuit_change),
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
