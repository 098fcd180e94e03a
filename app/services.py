"""Services: the objects that a worker needs, built once from the settings.

factory.py mounts the blueprints that use them; proxy.py sets the order in which a request does.
"""

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from flask import Flask

from app.auth.authentication import Authenticator
from app.auth.cache import DecisionCache
from app.auth.client import AuthService
from app.auth.fence import Fence
from app.auth.key_lookup import KeyLookup
from app.auth.revocations import Revocations
from app.auth.sessions import Sessions
from app.auth.single_flight import SingleFlight
from app.auth.workspaces import Workspaces
from app.health import instance_check
from app.health.checks import CHECKS, Checks, overall
from app.health.endpoints import Readiness
from app.health.internals import Inside
from app.health.results import Check, Question, SharedResults
from app.limits.in_flight import InFlight
from app.limits.request_limits import Limits, shared_limiter
from app.observability import metrics_page
from app.observability.emf import EmbeddedMetrics
from app.observability.metrics import count_circuit_change
from app.observability.periodic import Periodic
from app.observability.samples import Samples
from app.request.route_table import RouteTable
from app.request.unknown_paths import UnknownPaths
from app.state.circuits import CircuitBoard
from app.state.instance_database import FILE, InstanceDatabase
from app.state.instance_store import InstanceStore
from app.state.redis_link import RedisLink
from app.state.shared_values import SharedValues
from app.state.window_counts import WindowCounts
from app.state.windows import count_as_the_limiter
from app.upstream.buffered_bodies import BufferedBodies
from app.upstream.circuit import Circuit
from app.upstream.forwarding import Upstream
from app.upstream.questions import Questions
from config import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The objects that live as long as the worker."""

    settings: Settings
    # state
    store: InstanceStore
    link: RedisLink
    board: CircuitBoard
    # the pipeline
    routes: RouteTable
    unknown_paths: UnknownPaths
    auth_service: AuthService
    authenticator: Authenticator
    sessions: Sessions
    revocations: Revocations
    limits: Limits
    in_flight: InFlight
    workspaces: Workspaces
    fence: Fence
    buffered_bodies: BufferedBodies
    upstream: Upstream
    # health and metrics
    results: SharedResults
    readiness: Readiness
    inside: Inside
    watch: Periodic
    samples: Samples
    emf: EmbeddedMetrics | None

    @property
    def metrics_folder(self) -> Path | None:
        """The folder of the workers' metric files; None for a single process."""
        return self.settings.in_instance_folder("metrics")

    def health(self) -> tuple[str, Mapping[str, Check]]:
        """Return healthy, degraded or unhealthy, and the result of each check by name."""
        checks = self.results.of(*CHECKS)
        return overall(checks), checks

    def start(self) -> None:
        """Start the worker's background loops: report the circuits and obey `flask circuit`, watch
        the instance's folder, sample metrics for the status page, and with METRICS_EMF write them
        to the log."""
        self.board.start()
        if self.settings.mlflow_workspaces == "on":  # logs an error if MLflow has none
            threading.Thread(target=self.workspaces.are_there, daemon=True).start()
        self.watch.start()
        self.samples.start()
        if self.emf is not None:
            self.emf.start()

    def stop(self) -> None:
        """Write the counts since the last METRICS_EMF line."""
        if self.emf is not None:
            self.emf.stop()

    def drain(self) -> None:
        """Make /ready report that this instance is stopping."""
        self.readiness.draining = True


def build(settings: Settings) -> Services:
    """Build the services for these settings, without connecting to anything."""
    database = InstanceDatabase(settings.in_instance_folder(FILE))
    store = InstanceStore(database)
    link = RedisLink(settings.redis_url, settings.redis_timeout, settings.redis_retry_interval)

    def on_change(name: str, state: str) -> None:
        board.note(name, state)
        count_circuit_change(name, state)

    upstream, auth_service = _upstream(settings, on_change), _auth_service(settings, on_change)
    board = CircuitBoard(store, (upstream.circuit, auth_service.circuit))
    cache = _decision_cache(settings, link, store)
    flights = SingleFlight(settings.in_instance_folder("locks"), settings.max_connections // 4)
    lookup = KeyLookup(service=auth_service, cache=cache, flights=flights, settings=settings)
    sessions = Sessions(
        link,
        store,
        issuer=settings.key_issuer,
        is_ended=cache.is_ended,
        lifetime=settings.session_lifetime,
        idle=settings.session_idle,
        current=lookup.current,
    )
    limits = _limits(settings, link, WindowCounts(database))
    routes = RouteTable.load()
    in_flight = InFlight(
        per_key=settings.max_in_flight_per_key,
        in_all=settings.max_forwarded,
        most_waiting=(settings.max_connections - settings.max_forwarded) // 4,
    )
    inside = Inside(
        settings=settings,
        upstream=upstream,
        auth_service=auth_service,
        in_flight=lambda: in_flight.total,
        board=board,
    )
    questions = Questions(upstream, settings)
    workspaces = Workspaces(questions.ask, settings.mlflow_workspaces)
    checks = Checks(
        settings=settings,
        upstream=upstream,
        link=link,
        auth_service=auth_service,
        board=board,
        lacks_workspaces=workspaces.are_missing,
    )
    results = _results(settings, store, checks, inside)
    metrics = partial(metrics_page.registry, settings.in_instance_folder("metrics"))
    return Services(
        settings=settings,
        store=store,
        link=link,
        board=board,
        routes=routes,
        unknown_paths=UnknownPaths(routes),
        auth_service=auth_service,
        authenticator=_authenticator(settings, cache, flights, auth_service, sessions, limits),
        sessions=sessions,
        revocations=Revocations(link, cache.revocations),
        limits=limits,
        in_flight=in_flight,
        workspaces=workspaces,
        fence=Fence(questions.ask, settings.allowed_locations),
        buffered_bodies=BufferedBodies(settings.max_buffered_body, settings.max_buffered_total),
        upstream=upstream,
        results=results,
        readiness=Readiness(results, store, settings.max_stored_decision_age),
        inside=inside,
        watch=Periodic(
            name="instance",
            interval=instance_check.INTERVAL,
            action=partial(instance_check.watch, results),
        ),
        samples=Samples(metrics, store),
        emf=_emf(settings),
    )


def patient_checks(settings: Settings, timeout: float) -> Checks:
    """Build the health checks for `flask doctor`. They wait `timeout` seconds, on connections of
    their own that affect no circuit or limit of the pipeline."""
    settings = replace(settings, health_timeout=timeout)
    link = RedisLink(settings.redis_url, timeout, timeout)
    link.exercise = count_as_the_limiter
    upstream, auth_service = _upstream(settings), _auth_service(settings)
    workspaces = Workspaces(Questions(upstream, settings).ask, settings.mlflow_workspaces)
    return Checks(
        settings=settings,
        upstream=upstream,
        link=link,
        auth_service=auth_service,
        board=CircuitBoard(InstanceStore.at(None)),
        lacks_workspaces=workspaces.are_missing,
    )


def _upstream(
    settings: Settings, on_change: Callable[[str, str], None] = lambda name, state: None
) -> Upstream:
    """Build the client of MLflow, behind its circuit."""
    fail_max, interval = settings.circuit_fail_max, settings.circuit_reset_timeout
    return Upstream(settings, Circuit("mlflow", fail_max, interval, on_change))


def _auth_service(
    settings: Settings, on_change: Callable[[str, str], None] = lambda name, state: None
) -> AuthService:
    """Build the client of the auth service. Its circuit is separate from MLflow's and probes every
    AUTH_RETRY_INTERVAL, as often as a key is retried."""
    interval, fail_max = settings.auth_retry_interval, settings.circuit_fail_max
    return AuthService(
        settings.auth_service_url,
        service_id=settings.auth_service_id,
        timeout=settings.auth_timeout,
        circuit=Circuit("auth_service", fail_max, interval, on_change),
        lookup_token=settings.auth_lookup_token,
    )


def _decision_cache(settings: Settings, link: RedisLink, store: InstanceStore) -> DecisionCache:
    """Build the cache. gunicorn.conf.py sets one secret for all workers; without it, the secret is
    random."""
    return DecisionCache(
        SharedValues(link, store),
        secret=settings.auth_cache_secret.encode() or secrets.token_bytes(32),
        ttl=settings.auth_cache_ttl,
        negative_ttl=settings.auth_negative_ttl,
        stale_ttl=settings.auth_stale_ttl,
        session_lifetime=settings.session_lifetime,
    )


def _authenticator(
    settings: Settings,
    cache: DecisionCache,
    flights: SingleFlight,
    auth_service: AuthService,
    sessions: Sessions,
    limits: Limits,
) -> Authenticator:
    """Build the authenticator. Requests wait for a call in progress longer than AUTH_TIMEOUT."""
    return Authenticator(
        cache=cache,
        flights=flights,
        service=auth_service,
        issuer=settings.key_issuer,
        timeout=2 * settings.auth_timeout,
        retry_interval=settings.auth_retry_interval,
        failures=limits,
        sessions=sessions.principal,
    )


def _limits(settings: Settings, link: RedisLink, own: WindowCounts) -> Limits:
    """The counted limits."""
    return Limits(
        # A separate app: flask-limiter's hooks would run on each request and do nothing.
        shared=shared_limiter(Flask("limits"), link),
        link=link,
        own=own,
        instances=settings.instances,
        failure_limit=settings.auth_failure_limit,
    )


def _results(
    settings: Settings, store: InstanceStore, checks: Checks, inside: Inside
) -> SharedResults:
    """Build the health checks' results, shared by the workers of this instance."""
    instance = instance_check.InstanceCheck(settings.in_instance_folder(), store)
    questions = checks.questions() | inside.questions() | {"instance": Question(instance.ask)}
    return SharedResults(
        store, questions, ttl=settings.health_cache_ttl, timeout=settings.health_timeout
    )


def _emf(settings: Settings) -> EmbeddedMetrics | None:
    """Build the writer of metrics to the log, if METRICS_EMF is on."""
    if not settings.metrics_emf:
        return None
    return EmbeddedMetrics(
        namespace=settings.metrics_emf_namespace,
        service=settings.metrics_emf_service,
        interval=settings.metrics_emf_interval,
    )
