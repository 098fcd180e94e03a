"""What operators live with, built from the walk's parts and mounted beside it."""

from pathlib import Path

from flask import Flask

from app import api_description, commands
from app.auth.client import AuthService
from app.auth.revocations import Revocations
from app.health import diagnosis, messages
from app.health import endpoints as health
from app.health import self_test as self_tests
from app.health.checks import Checks
from app.health.instance_check import InstanceCheck, InstanceWatch
from app.health.internals import Inside
from app.health.name_lookups import with_name_lookups
from app.health.readiness import Readiness
from app.health.results import Question, SharedResults
from app.observability import metrics_page
from app.observability.condition_metrics import count_dropped
from app.observability.emf import EmbeddedMetrics
from app.observability.metrics import count_refused_head
from app.proxy import Parts
from app.state.circuits import CircuitBoard
from app.state.instance_store import InstanceStore
from app.state.redis_link import RedisLink
from config import Settings


def mount(
    app: Flask,
    settings: Settings,
    parts: Parts,
    auth_service: AuthService,
    link: RedisLink,
    store: InstanceStore,
    board: CircuitBoard,
    revocations: Revocations,
) -> SharedResults:
    """Routes, commands, and what gunicorn.conf.py starts in each worker. The checks' results are
    handed on, for the status page."""
    folder = Path(settings.instance_folder) if settings.instance_folder else None
    results = _mount_health(app, settings, parts, auth_service, link, store, board)
    app.register_blueprint(metrics_page.blueprint(folder / "metrics" if folder else None))
    app.register_blueprint(api_description.blueprint())
    app.register_blueprint(
        self_tests.blueprint(parts.authenticator.authenticate, settings.trusted_proxy_hops)
    )
    commands.add(app.cli, settings, link, revocations, parts.routes)
    app.extensions["hokusai-refused"] = count_refused_head
    app.extensions["hokusai-dropped"] = count_dropped
    app.extensions["hokusai-circuits"] = board
    if settings.otel_enabled:
        from app.observability import telemetry  # an extra: requirements/telemetry.in

        telemetry.trace(app)
    if settings.metrics_emf:
        app.extensions["hokusai-emf"] = EmbeddedMetrics(
            settings.metrics_emf_namespace,
            settings.metrics_emf_service,
            settings.metrics_emf_interval,
        )
    return results


def _mount_health(
    app: Flask,
    settings: Settings,
    parts: Parts,
    auth_service: AuthService,
    link: RedisLink,
    store: InstanceStore,
    board: CircuitBoard,
) -> SharedResults:
    inside = Inside(settings, parts.upstream, auth_service, parts.in_flight, board)
    checks = Checks(settings, parts.upstream, link, auth_service, board)
    by_check = {
        "connectivity": diagnosis.mlflow_at(settings.mlflow_server_url),
        "auth_service": diagnosis.auth_service_at(settings.auth_service_url),
        "redis": diagnosis.redis_at(settings.redis_url),
    }
    asked = with_name_lookups(checks.questions(), by_check, settings.health_timeout)
    questions = asked | inside.questions()
    folder = Path(settings.instance_folder) if settings.instance_folder else None
    questions["instance"] = Question(InstanceCheck(folder, store).ask, messages.FAILED)
    results = SharedResults(store, questions, settings.health_cache_ttl, settings.health_timeout)
    readiness = Readiness(results, store, settings.max_stored_verdict_age)
    app.register_blueprint(
        health.blueprint(results, readiness, inside, parts.authenticator.authenticate)
    )
    app.extensions["hokusai-health"] = readiness
    app.extensions["hokusai-instance"] = InstanceWatch(results)
    return results
