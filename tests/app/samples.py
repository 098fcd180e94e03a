"""Small real values for the tests of app/: an environment as gunicorn makes it, and so on."""

from io import BytesIO
from typing import Any

from app.request.inbound import Inbound, receive
from app.request.permit import Permit
from app.request.principal import Principal
from app.request.route_table import Access, Route, RouteTable
from config import Settings

KEY = "hk_test_0123456789abcdef"

#: A route that reads, one that creates, and one whose transfers may be long.
READ = Route(frozenset(("GET",)), "/api/2.0/mlflow/runs/get", Access.READ, "runs", "GetRun")
CREATE = Route(
    frozenset(("POST",)), "/api/2.0/mlflow/runs/create", Access.WRITE, "runs", "CreateRun", True
)
TRANSFER = Route(
    frozenset(("GET", "PUT")),
    "/artifacts/{path:path}",
    Access.WRITE,
    "artifacts",
    "Put",
    takes_chunked=True,
    copies=True,
)


def environ(
    method: str = "GET",
    target: str = "/api/mlflow/api/2.0/mlflow/runs/get",
    body: bytes = b"",
    **variables: Any,
) -> dict[str, Any]:
    """A WSGI environment; `variables` add to it, and None takes one away."""
    made: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "RAW_URI": target,
        "REMOTE_ADDR": "198.51.100.7",
        "HTTP_HOST": "registry.hokus.ai",
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
    }
    if body:
        made["CONTENT_LENGTH"] = str(len(body))
    made.update(variables)
    return {name: value for name, value in made.items() if value is not None}


def inbound(method: str = "GET", target: str = "/api/mlflow/version", **variables: Any) -> Inbound:
    """A request, received with no trusted proxy in front."""
    return receive(environ(method, target, **variables), "request-0001", 0)


def principal(**changes: Any) -> Principal:
    """Ann, who reads and writes, without a limit."""
    facts: dict[str, Any] = {
        "user_id": "ann",
        "key_id": "key-1",
        "service_id": "platform",
        "scopes": frozenset(("read", "write")),
        "limit_per_hour": None,
        "is_admin": False,
    }
    return Principal(**facts | changes)


def permit(
    asked: Inbound | None = None, who: Principal | None = None, route: Route | None = READ
) -> Permit:
    """Leave for a request."""
    return Permit(who or principal(), asked or inbound(), route)


def settings(**changes: Any) -> Settings:
    """The defaults, for a circuit and time-outs that a test can wait for."""
    quick: dict[str, Any] = {
        "mlflow_connect_timeout": 1.0,
        "mlflow_read_timeout": 5.0,
        "mlflow_artifact_read_timeout": 5.0,
        "mlflow_artifact_copy_timeout": 5.0,
    }
    return Settings(**quick | changes)


def route_of(table: RouteTable, method: str, path: str) -> Route | None:
    """The row of the table under which a request falls; None for an unknown route."""
    found = table.match(method, path)
    return found.route if found else None
