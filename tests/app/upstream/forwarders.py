"""What the forwarding tests share: a request, quick timeouts, responses of MLflow."""

import contextlib
from collections.abc import Callable, Iterator

import urllib3

from app.request.route_table import Route
from app.upstream.forwarding import Upstream as Forwarder
from app.upstream.streaming import Body
from tests.app.samples import READ, inbound, permit
from tests.upstreams import Answer, Upstream, refused_port, send, sized

NO_BODY = Body(None, 0)
OK = Answer(send(sized(b"{}")))
MakeForwarder = Callable[..., Forwarder]


def forward(
    forwarder: Forwarder,
    method: str = "GET",
    target: str = "/mlflow/version",
    body: Body = NO_BODY,
    route: Route | None = READ,
    **variables: str,
) -> urllib3.BaseHTTPResponse:
    """Forwards a request and reads the answer to its end."""
    answer = forwarder.forward(permit(inbound(method, target, **variables), route=route), body)
    try:
        _ = answer.data
    finally:
        answer.close()
    return answer


def whole(content: bytes) -> Body:
    return Body(content, len(content))


QUICK = {
    "mlflow_connect_timeout": 0.1,
    "mlflow_read_timeout": 0.1,
    "mlflow_artifact_read_timeout": 0.2,
    "mlflow_artifact_copy_timeout": 0.2,
}


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    with refused_port() as port:
        yield f"http://127.0.0.1:{port}"


def asked_for(mlflow: Upstream, target: bytes) -> int:
    return [asked.target for asked in mlflow.requests].count(target)


def count_connects(forwarder: Forwarder) -> Callable[[], int]:
    return lambda: int(forwarder._pool.num_requests)


TEXT = ("Content-Type", "text/html; charset=utf-8")
POOL = (
    b'{"error_code": "BAD_REQUEST", "message": "QueuePool limit of size 5 overflow 10 reached, '
    b'connection timed out, timeout 30.00"}'
)
