"""The walk of a request: from the key to the stream. Sole owner of the order.

    receive → identify → authenticate → authorize → limit → forward → respond

Each step returns what the next one needs; only authorize makes a Permit, and forward wants one.
"""

import logging
import time
from dataclasses import dataclass

from flask import Blueprint, Response, g, redirect, request
from werkzeug.routing import PathConverter
from werkzeug.wrappers import Response as WerkzeugResponse

from app.auth.authentication import Authenticator
from app.auth.authorization import authorize, authorize_anybody
from app.limits.request_limits import Counted, InFlight, Limits
from app.observability.condition_metrics import count_address_fallback
from app.observability.record import Record
from app.request.addresses import network
from app.request.credentials import Credentials, Ticket, identify
from app.request.cross_site import refuse_cross_site
from app.request.errors import NoSuchPath
from app.request.inbound import Inbound, check_query, receive
from app.request.permit import Permit
from app.request.principal import Principal
from app.request.route_table import RouteTable
from app.request.unknown_paths import UnknownPaths
from app.responses import respond
from app.upstream.buffered_bodies import BufferedBodies
from app.upstream.forwarding import Upstream
from app.upstream.streaming import request_body
from app.upstream.workspaces import Workspaces

log = logging.getLogger("hokusai.walk")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the walk works with; built once by create_app."""

    routes: RouteTable
    unknown_paths: UnknownPaths
    authenticator: Authenticator
    limits: Limits
    in_flight: InFlight
    upstream: Upstream
    workspaces: Workspaces
    trusted_hops: int
    buffered_bodies: BufferedBodies

    def walk(self, record: Record) -> Response:
        """One request, from its head to MLflow's answer."""
        inbound = self.receive(record)
        route = self.routes.match(inbound.method, inbound.decoded_path)
        record.inbound, record.route = inbound, route
        log.debug(
            "%s received: %s", record.request_id, route.operation if route else "unclassified"
        )
        refuse_cross_site(inbound.environ, self.trusted_hops)
        credentials = identify(inbound.environ, self.trusted_hops)
        counted: Counted = "session" if isinstance(credentials, Ticket) else "key"
        principal = self.authenticate(credentials, inbound, record)
        log.debug("%s authenticated: %s", record.request_id, principal.key_id)
        permit = authorize(principal, inbound, route, self.unknown_paths.refusal)
        record.limit_fields = self.limits.limit(permit, counted)
        self.workspaces.refuse(inbound.environ, inbound.decoded_path)
        log.debug("%s permitted, within its limit", record.request_id)
        return self.pass_on(permit, record, f"{counted} {principal.key_id}")

    def receive(self, record: Record) -> Inbound:
        """The request, read once."""
        return receive(
            request.environ, record.request_id, self.trusted_hops, count_address_fallback
        )

    def permit_anybody(self, record: Record) -> Permit:
        """A Permit for one of MLflow's static files, which need no key and count against no limit
        but that of the requests in flight."""
        inbound = self.receive(record)
        route = self.routes.match(inbound.method, inbound.decoded_path)
        record.inbound, record.route = inbound, route
        return authorize_anybody(inbound, route)

    def pass_on_for_anybody(self, permit: Permit, record: Record) -> Response:
        """The same without a key: the requests in flight are those of the client's network, so that
        one stranger's slow ones take nobody else's places."""
        return self.pass_on(permit, record, f"network {network(permit.inbound.client_ip)}")

    def pass_on(self, permit: Permit, record: Record, counted: str) -> Response:
        """Body, MLflow, answer; `counted` is for whom the requests in flight are limited."""
        inbound, route = permit.inbound, permit.route
        place = self.in_flight.take(counted)
        try:
            streams = route is not None and route.takes_chunked
            with self.buffered_bodies.new(counted) as aside:
                body = request_body(inbound, streams, aside, record.came)
                record.body = body.content if isinstance(body.content, bytes) else None
                sent = time.monotonic()
                try:
                    answer = self.upstream.forward(permit, body, record.tried)
                finally:
                    record.upstream_seconds = time.monotonic() - sent
            log.debug("%s answered by MLflow: %s", record.request_id, answer.status)
            return respond(answer, permit, self.upstream.url, place.leave)
        except BaseException:
            place.leave()
            raise

    def authenticate(
        self, credentials: Credentials | Ticket, inbound: Inbound, record: Record
    ) -> Principal:
        """The principal behind key or session; failed attempts of an address are limited."""
        began = time.monotonic()
        try:
            found = self.authenticator.authenticate(credentials, inbound.client_ip)
        finally:
            record.auth_seconds = time.monotonic() - began
        record.principal, record.auth_source = found.principal, found.source
        return found.principal


class _AnyRest(PathConverter):
    """Any rest of a path, `//` and line feeds too: the walk refuses those, and says why."""

    regex = r"(?s:.+)"
    part_isolating = False


def blueprint(parts: Parts) -> Blueprint:
    """Both public prefixes, and the redirect that relative addresses in MLflow's UI need."""
    walk = Blueprint("walk", __name__)
    walk.record(lambda state: state.app.url_map.converters.update(any_rest=_AnyRest))

    def everything(rest: str = "") -> Response:
        return parts.walk(g.record)

    for prefix in ("/api/mlflow/", "/mlflow/"):
        for rule in (prefix, f"{prefix}<any_rest:rest>"):
            methods = ("GET", "HEAD") if rule == "/api/mlflow/" else METHODS
            walk.add_url_rule(
                rule, "everything", everything, methods=methods, provide_automatic_options=False
            )

    @walk.route("/mlflow", methods=METHODS)
    def with_slash() -> WerkzeugResponse:
        query = request.query_string.decode("latin-1")
        check_query(query)
        return redirect("/mlflow/" + (f"?{query}" if query else ""), 308)

    @walk.route("/api/mlflow", methods=METHODS)
    # With the slash: what is left of a tracking URI with a fragment (`#/experiments/0`). GET is
    # MLflow's page.
    @walk.route("/api/mlflow/", methods=sorted({*METHODS} - {"GET", "HEAD"}))
    def tracking_uri() -> Response:
        raise NoSuchPath(
            "This is the tracking URI; MLflow's client adds the rest of the path to it. It must "
            "end here, without a '#' behind it. To look at MLflow in a browser, open /mlflow/."
        )

    return walk
