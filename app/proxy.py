"""The pipeline of a request: from the key to the stream. Sole owner of the order.

    receive → identify → authenticate → authorize → limit → forward → respond

Each step returns what the next one needs; only authorize makes a Permit, and forward wants one.
"""

import logging
import time

from flask import Blueprint, Response, g, redirect, request
from werkzeug.routing import PathConverter
from werkzeug.wrappers import Response as WerkzeugResponse

from app.auth.authorization import authorize, authorize_anybody
from app.observability.metrics import count_address_fallback
from app.observability.record import Record
from app.request.addresses import network
from app.request.credentials import Counted, Credentials, SessionTokens, identify
from app.request.cross_site import refuse_cross_site
from app.request.errors import NoSuchPath, ProxyError
from app.request.inbound import METHODS, Inbound, check_query, receive
from app.request.permit import Permit
from app.request.principal import Principal
from app.request.route_table import Route
from app.responses import keep_private, respond
from app.services import Services
from app.upstream.streaming import request_body

log = logging.getLogger("hokusai.walk")

#: What a request for the tracking URI itself is told.
TRACKING_URI = (
    "This is the tracking URI; MLflow's client adds the rest of the path to it. It must end here, "
    "without a '#' behind it. To look at MLflow in a browser, open /mlflow/."
)

#: How the names of MLflow's own clients begin (mlflow-python-client/3.17.2). They ask for the page
#: of MLflow only where a `#` in the tracking URI hides the rest of the path.
CLIENTS = "mlflow-"


def pipeline(services: Services, record: Record) -> Response:
    """One request, from its head to MLflow's response."""
    inbound, route = _receive(services, record)
    log.debug("%s received: %s", record.request_id, route.operation if route else "unclassified")
    try:
        return _serve(services, inbound, route, record)
    except ProxyError as error:
        error.wants_429 = route is not None and route.wants_429
        raise


def _serve(services: Services, inbound: Inbound, route: Route | None, record: Record) -> Response:
    """The steps behind the first one."""
    hops = services.settings.trusted_proxy_hops
    refuse_cross_site(inbound.environ, hops)
    credentials = identify(inbound.environ, hops)
    counted: Counted = "session" if isinstance(credentials, SessionTokens) else "key"
    principal = _authenticate(services, credentials, inbound, record)
    log.debug("%s authenticated: %s", record.request_id, principal.key_id)
    try:
        permit = authorize(principal, inbound, route, services.unknown_paths.refusal)
    except ProxyError:
        record.limit_fields = services.limits.left(principal, counted)
        raise
    record.limit_fields = services.limits.limit(permit, counted)
    services.workspaces.refuse(inbound.environ, inbound.decoded_path)
    log.debug("%s permitted, within its limit", record.request_id)
    response = _pass_on(services, permit, record, f"{counted} {principal.key_id}")
    caches_keep_out = counted == "key" and "HTTP_AUTHORIZATION" in inbound.environ
    return response if caches_keep_out else keep_private(response)


def permit_anybody(services: Services, record: Record) -> Permit:
    """A Permit for one of MLflow's static files, which need no key and count against no limit but
    that of the requests in flight."""
    return authorize_anybody(*_receive(services, record))


def pass_on_for_anybody(services: Services, permit: Permit, record: Record) -> Response:
    """The same without a key: the requests in flight are those of the client's network, so that
    one stranger's slow ones take nobody else's places."""
    counted = f"network {network(permit.inbound.client_ip)}"
    return _pass_on(services, permit, record, counted, has_key=False)


def _receive(services: Services, record: Record) -> tuple[Inbound, Route | None]:
    """The request, read once, and its row of the route table."""
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
    """The principal behind key or session."""
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
    """Body, MLflow, answer; `counted` is for whom the requests in flight are limited."""
    inbound, route, upstream = permit.inbound, permit.route, services.upstream
    slot = services.in_flight.acquire(counted, has_key)
    try:
        streams = route is not None and route.takes_chunked
        with services.buffered_bodies.new(counted) as aside:
            body = request_body(inbound, streams, aside, record.came)
            record.body = body.content if isinstance(body.content, bytes) else None
            sent = time.monotonic()
            try:
                answer = upstream.forward(permit, body, record.tried)
            finally:
                record.upstream_seconds = time.monotonic() - sent
        log.debug("%s answered by MLflow: %s", record.request_id, answer.status)
        return respond(answer, permit, upstream.url, slot.release)
    except BaseException:
        slot.release()
        raise


class _AnyRest(PathConverter):
    """Any rest of a path, `//` and line feeds too: the pipeline refuses those, and says why."""

    regex = r"(?s:.+)"
    part_isolating = False


def blueprint(services: Services) -> Blueprint:
    """Both public prefixes, and the redirect that relative addresses in MLflow's UI need."""
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
    # With the slash: what is left of a tracking URI with a fragment (`#/experiments/0`). GET is
    # MLflow's page.
    @routes.route("/api/mlflow/", methods=sorted({*METHODS} - {"GET", "HEAD"}))
    def tracking_uri() -> Response:
        raise NoSuchPath(TRACKING_URI)

    return routes
