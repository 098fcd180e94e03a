"""What a browser meets, built from the walk's parts and mounted beside it."""

from functools import partial
from pathlib import Path

from flask import Flask

from app.auth.sessions import Sessions
from app.browser import assets, forms, pages, status
from app.browser.sign_in import SignIn
from app.health.checks import CHECKS, overall
from app.health.results import SharedResults
from app.observability import metrics_page
from app.observability.samples import Samples
from app.proxy import METHODS, Parts
from app.state.instance_store import InstanceStore
from config import Settings


def mount(
    app: Flask,
    settings: Settings,
    parts: Parts,
    sessions: Sessions,
    results: SharedResults,
    store: InstanceStore,
) -> None:
    """Sign-in, the status page, and MLflow's static files, which need no key; and the
    samples, which gunicorn.conf.py starts in each worker."""
    metrics = Path(settings.instance_folder) / "metrics" if settings.instance_folder else None
    samples = Samples(partial(metrics_page.registry, metrics), store)
    who = SignIn(parts.authenticator, parts.limits, sessions, parts.trusted_hops)
    checks = partial(results.of, *CHECKS)
    asked = status.Asked(checks, overall, settings.mlflow_server_url, samples)
    app.register_blueprint(assets.blueprint(parts.permit_anybody, parts.pass_on_for_anybody))
    app.register_blueprint(forms.blueprint(who, METHODS))
    app.register_blueprint(status.blueprint(asked, who.asking))
    app.extensions["hokusai-samples"] = samples
    app.extensions["hokusai-page"] = partial(pages.page_without_request, app)
