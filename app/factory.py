"""create_app: build the services and mount the blueprints, nothing else.

proxy.py holds the life of a request; docs/architecture.md draws it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface

from app import commands, proxy, responses
from app.browser import account, api_description, assets, forms, pages, status
from app.browser.sign_in import SignIn
from app.health import endpoints as health
from app.health import self_test
from app.observability import audit, metrics_page
from app.observability.metrics import count_dropped, count_refused_head
from app.server.hooks import WorkerHooks
from app.services import Services, build
from config import Settings


def create_app(settings: Settings) -> Flask:
    """Build the WSGI application for these settings, without connecting to anything."""
    services = build(settings)
    app = _App("app", static_folder=None)
    app.session_interface = _NoSessions()
    app.url_map.merge_slashes = False  # `//` is refused by the pipeline, not redirected
    app.url_map.strict_slashes = True
    responses.install(
        app,
        hops=settings.trusted_proxy_hops,
        target=settings.mlflow_server_url,
        audit=audit.write,
        render=pages.render_error,
    )
    _mount_health(app, services)
    app.register_blueprint(proxy.blueprint(services))
    _mount_pages(app, services)
    commands.add(app.cli, services)
    if settings.otel_enabled:
        from app.observability import telemetry  # an extra: requirements/telemetry.in

        telemetry.trace(app)
    WorkerHooks(
        start=services.start,
        stop=services.stop,
        drain=services.drain,
        count_refused=count_refused_head,
        count_dropped=count_dropped,
        error_page=partial(pages.page_without_request, app),
    ).attach(app.extensions)
    services.revocations.start()
    return app


def _mount_health(app: Flask, services: Services) -> None:
    """Mount health, self-test and metrics, which bypass the pipeline."""
    hops = services.settings.trusted_proxy_hops
    require_a_key = partial(account.require_a_key, services)
    app.register_blueprint(
        health.blueprint(services.results, services.readiness, services.inside, require_a_key)
    )
    app.register_blueprint(metrics_page.blueprint(services.metrics_folder))
    app.register_blueprint(self_test.blueprint(require_a_key, hops))


def _mount_pages(app: Flask, services: Services) -> None:
    """Mount sign-in, the status page, the API description, and MLflow's static files, which need
    no key."""
    sign_in = SignIn(services)
    app.register_blueprint(api_description.blueprint())
    app.register_blueprint(
        assets.blueprint(
            partial(proxy.permit_anybody, services), partial(proxy.pass_on_for_anybody, services)
        )
    )
    app.register_blueprint(forms.blueprint(sign_in, services.settings.split_scopes))
    app.register_blueprint(account.blueprint(services))
    app.register_blueprint(status.blueprint(services, sign_in.current_user))


class _App(Flask):
    """Flask, which would look in each request whether its functions are coroutines; none is."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


class _NoSessions(SessionInterface):
    """Disable Flask's sessions: no cookie is read or written."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._none

    def is_null_session(self, obj: object) -> bool:
        return True
