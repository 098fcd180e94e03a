"""The self-test, for any valid key: what `flask doctor` cannot cause from outside.

- seen: how a request arrived here, after every hop in front;
- broken-transfer: a download that breaks off halfway, as one does when MLflow dies;
- refused: 503 with a Retry-After, as in an overload.

They are under both prefixes, so that a load balancer routes them like other requests.
docs/decisions/doctor.md says why they exist.
"""

import socket
import struct
from collections.abc import Callable, Iterator

from flask import Blueprint, Response, request

from app.request.errors import BrokenTransfer, Overloaded
from app.request.inbound import PREFIXES, client_address, scheme_of
from app.responses import json_response

#: Bytes before the break: more than a hop buffers before it answers.
BEFORE_THE_BREAK = 256 * 1024

#: Seconds; a number that no hop sends by itself.
RETRY_AFTER = 7


def blueprint(require_a_key: Callable[[], None], hops: int) -> Blueprint:
    """The routes; `hops` is TRUSTED_PROXY_HOPS."""
    routes = Blueprint("self_test", __name__)
    routes.before_request(require_a_key)

    def seen() -> Response:
        environ = request.environ
        forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").strip()
        return json_response(
            {
                "protocol": environ.get("SERVER_PROTOCOL"),
                "host": environ.get("HTTP_HOST"),
                "scheme": scheme_of(environ, hops),
                "client_ip": client_address(environ, hops),
                "forwarded_for": len(forwarded.split(",")) if forwarded else 0,
                "trusted_hops": hops,
            }
        )

    def broken_transfer() -> Response:
        body = _breaks_off(request.environ.get("gunicorn.socket"))
        return Response(body, content_type="application/octet-stream")

    def refused() -> Response:
        raise Overloaded("This is the self-test's refusal; nothing is wrong.", RETRY_AFTER)

    for prefix in PREFIXES:
        path = f"{prefix}/health/mlflow/self-test"
        routes.add_url_rule(f"{path}/seen", "seen", seen)
        routes.add_url_rule(f"{path}/broken-transfer", "broken-transfer", broken_transfer)
        routes.add_url_rule(f"{path}/refused", "refused", refused)
    return routes


def _breaks_off(connection: socket.socket | None) -> Iterator[bytes]:
    """Half of a body, then a reset, as streaming.py does when MLflow breaks off."""
    yield b"\0" * BEFORE_THE_BREAK
    if connection is not None:
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    raise BrokenTransfer("the self-test broke off, as it should")
