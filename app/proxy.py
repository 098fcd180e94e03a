"""The request pipeline, from key to stream. The only module that sets the order of the steps.

    receive → identify → authenticate → authorize → limit → choose a workspace → fence → forward
    → respond

Each step returns what the next one needs. Only authorize makes a Permit; forward requires one.
"""

import logging
import time

from flask import Blueprint, Response, g, redirect, request
from werkzeug.routing import PathConverter
from werkzeug.wrappers import Response as WerkzeugResponse

from app.auth.artifact_paths import refuse_root
from app.auth.authorization import authorize, authorize_anybody, is_admin
from app.observability.metrics import count_address_fallback
from app.observability.record import Record
from app.request.addresses import network
from app.request.credentials import (
    Counted,
    Credentials,
    SessionTokens,
    identify,
    identify_at_gateway,
)
from app.request.cross_site import refuse_cross_site
from app.request.errors import NoSuchPath, ProxyError
from app.request.inbound import METHODS, Inbound, check_query, receive
from app.request.permit import Permit
from app.request.principal import Principal
from app.request.route_table import Access, Route
from app.responses import json_response, keep_private, respond
from app.services import Services
from app.upstream.streaming import request_body

log = logging.getLogger("hokusai.pipeline")

#: The message for a request to the tracking URI itself.
TRACKING_URI = (
    "This is the tracking URI; MLflow's client appends the rest of the path. It must end here, "
    "without a '#' after it. To see MLflow in a browser, open /mlflow/."
)

#: The User-Agent prefix of MLflow's own clients (mlflow-python-client/3.17.2). They request
#: MLflow's page only if a `#` in the tracking URI cuts off the rest of the path.
CLIENTS = "mlflow-"


def pipeline(services: Services, record: Record) -> Response:
    """Serve one request, from its head to MLflow's response."""
    inbound, route = _receive(services, record)
    log.debug("%s received: %s", record.request_id, route.operation if route else "unclassified")
    try:
        return _serve(services, inbound, route, record)
    except ProxyError as error:
        error.wants_429 = route is not None and route.wants_429
        raise


def _serve(services: Services, inbound: Inbound, route: Route | None, record: Record) -> Response:
    """Run the steps after the first one."""
    hops = services.settings.trusted_proxy_hops
    refuse_cross_site(inbound.environ, hops)
    at_gateway = route is not None and route.access is Access.GATEWAY
    credentials = (identify_at_gateway if at_gateway else identify)(inbound.environ, hops)
    counted: Counted = "session" if isinstance(credentials, SessionTokens) else "key"
    principal = _authenticate(services, credentials, inbound, record)
    log.debug("%s authenticated: %s", record.request_id, principal.key_id)
    try:
        permit = authorize(
            principal,
            inbound,
            route,
            services.unknown_paths.refusal,
            split_scopes=services.settings.split_scopes,
            provider="" if isinstance(credentials, SessionTokens) else credentials.provider,
        )
    except ProxyError:
        record.limit_fields = services.limits.left(principal, counted)
        raise
    record.limit_fields = services.limits.limit(permit, counted)
    permit = services.workspaces.bound(permit, record.parameters)
    refuse_root(permit, may_list=is_admin(principal))
    record.workspace = permit.workspace
    log.debug("%s permitted, within its limit", record.request_id)
    if (own := services.workspaces.own_answer(permit, counted == "session")) is not None:
        return keep_private(json_response(own))
    response = _pass_on(services, permit, record, f"{counted} {principal.key_id}")
    caches_keep_out = counted == "key" and "HTTP_AUTHORIZATION" in inbound.environ
    return response if caches_keep_out else keep_private(response)


def permit_anybody(services: Services, record: Record) -> Permit:
    """Permit one of MLflow's static files. They need no key; only the in-flight limit applies."""
    return authorize_anybody(*_receive(services, record))


def pass_on_for_anybody(services: Services, permit: Permit, record: Record) -> Response:
    """Forward a request without a key. It counts against the in-flight limit of the client's
    network, so one client's slow requests do not take the slots of others."""
    counted = f"network {network(permit.inbound.client_ip)}"
    return _pass_on(services, permit, record, counted, has_key=False)


def _receive(services: Services, record: Record) -> tuple[Inbound, Route | None]:
    """Read the request once, and find its row in the route table."""
    inbound = receive(
        request.environ,
        record.request_id,
        services.settings.trusted_proxy_hops,
        count_address_fallback,
    )
    record.inbound = inbound
    if found := services.routes.match(inbound.method, inbound.decoded_path):
        record.route, record.parameters = found
    return inbound, record.route


def _authenticate(
    services: Services, credentials: Credentials | SessionTokens, inbound: Inbound, record: Record
) -> Principal:
    """Find the principal behind a key or session, and record how long it took."""
    began = time.monotonic()
    try:
        found = services.authenticator.authenticate(credentials, inbound.client_ip)
    finally:
        record.auth_seconds = time.monotonic() - began
    record.principal, record.auth_source = found.principal, found.source
    return found.principal


def _pass_on(
    services: Services, permit: Permit, record: Record, counted: str, has_key: bool = True
) -> Response:
    """Forward the body and stream the response. `counted` is whose in-flight limit applies."""
    inbound, route, upstream = permit.inbound, permit.route, services.upstream
    slot = services.in_flight.acquire(counted, has_key)
    try:
        streams = route is not None and route.takes_chunked
        with services.buffered_bodies.new(counted) as aside:
            is_judged = services.fence.reads(permit)
            body = request_body(inbound, streams, aside, record.came, is_judged)
            record.body = body.short
            sent = time.monotonic()
            try:
                body = services.fence.checked(permit, body, record.parameters)
                answer = upstream.forward(permit, body, record.tried)
            finally:
                record.upstream_seconds = time.monotonic() - sent
        log.debug("%s answered by MLflow: %s", record.request_id, answer.status)
        return respond(answer, permit, upstream.url, slot.release)
    except BaseException:
        slot.release()
        raise


class _AnyRest(PathConverter):
    """Match any rest of a path, even `//` and line feeds: the pipeline refuses those with a
    reason."""

    regex = r"(?s:.+)"
    part_isolating = False


def blueprint(services: Services) -> Blueprint:
    """Build the routes of both public prefixes, and the redirect for the UI's relative URLs."""
    routes = Blueprint("pipeline", __name__)
    routes.record(lambda state: state.app.url_map.converters.update(any_rest=_AnyRest))

    def everything(rest: str = "") -> Response:
        if not rest and request.headers.get("User-Agent", "").startswith(CLIENTS):
            raise NoSuchPath(TRACKING_URI)
        return pipeline(services, g.record)

    for prefix in ("/api/mlflow/", "/mlflow/"):
        for rule in (prefix, f"{prefix}<any_rest:rest>"):
            methods = ("GET", "HEAD") if rule == "/api/mlflow/" else METHODS
            routes.add_url_rule(
                rule, "everything", everything, methods=methods, provide_automatic_options=False
            )

    @routes.route("/mlflow", methods=METHODS)
    def with_slash() -> WerkzeugResponse:
        query = request.query_string.decode("latin-1")
        check_query(query)
        return redirect("/mlflow/" + (f"?{query}" if query else ""), 308)

    @routes.route("/api/mlflow", methods=METHODS)
    # With the slash: a tracking URI cut off at a fragment (`#/experiments/0`). GET serves MLflow's
    # page.
    @routes.route("/api/mlflow/", methods=sorted({*METHODS} - {"GET", "HEAD"}))
    def tracking_uri() -> Response:
        raise NoSuchPath(TRACKING_URI)

    return routes
