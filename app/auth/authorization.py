"""What a key may do: its scopes against the access that the route table requires.

Deny by default: an unclassified route needs admin, and MLflow's assistant routes, which can run
programs, are refused to everyone. Only this module makes a Permit, and no request is forwarded
without one.
"""

from collections.abc import Callable

from app.request.errors import BadRequest, Forbidden, NoSuchPath
from app.request.inbound import Inbound
from app.request.permit import Permit
from app.request.principal import Principal
from app.request.route_table import Access, Route

#: Scopes, as the auth service spells them, and what they grant.
READ_SCOPES = frozenset(("read", "mlflow:read"))
WRITE_SCOPES = frozenset(("write", "mlflow:write", "model:write", "mlflow:access", "full_access"))
ADMIN_SCOPES = frozenset(("admin", "mlflow:admin", "registry:admin"))

#: The operation of MLflow's scripts, styles and images: public code, the same for everyone.
STATIC_FILES = "ServeStaticFile"


def authorize(
    principal: Principal,
    inbound: Inbound,
    route: Route | None,
    unknown: Callable[[str], NoSuchPath | None] = lambda path: None,
) -> Permit:
    """Make a Permit; raise Forbidden with the missing scope.

    `unknown` returns a NoSuchPath for a path without a row that MLflow cannot have. It is raised
    unless the caller is an admin, whose request is forwarded.
    """
    if route is not None and route.access is Access.REFUSED:
        raise Forbidden(
            "MLflow's assistant can run programs on the server; this proxy refuses it to everyone."
        )
    needed = route.access if route is not None else Access.ADMIN
    if needed not in granted(principal):
        if route is None and (missing := unknown(inbound.decoded_path)):
            raise missing
        raise Forbidden(_missing(needed, inbound, route))
    return Permit(principal, inbound, route)


#: The anonymous principal of requests for public files; MLflow gets no identity.
ANYBODY = Principal("", "", "", frozenset(), None, False)


def authorize_anybody(inbound: Inbound, route: Route | None) -> Permit:
    """Make a Permit without a key, for MLflow's static files only."""
    if route is None or route.operation != STATIC_FILES or inbound.method not in ("GET", "HEAD"):
        raise NoSuchPath("MLflow has no static file of this name.")
    if inbound.chunked or inbound.content_length:
        raise BadRequest("A request for a static file has no body.")
    return Permit(ANYBODY, inbound, route)


def granted(principal: Principal) -> frozenset[Access]:
    """The kinds of access that a principal's scopes grant; unknown scopes grant none."""
    if principal.is_admin or principal.scopes & ADMIN_SCOPES:
        return frozenset((Access.READ, Access.WRITE, Access.ADMIN))
    if principal.scopes & WRITE_SCOPES:
        return frozenset((Access.READ, Access.WRITE))
    if principal.scopes & READ_SCOPES:
        return frozenset((Access.READ,))
    return frozenset()


def _missing(needed: Access, inbound: Inbound, route: Route | None) -> str:
    """The message that names the missing scope."""
    what, hint = f"{inbound.method} {inbound.path}", ""
    if route is None:
        what += ", which is not a known MLflow route,"
        if inbound.method == "GET":  # a load balancer redirects http to https with a 301
            hint = (
                " If you sent a POST, a redirect made it a GET: use https:// in the tracking URI."
            )
    example = {Access.READ: "mlflow:read", Access.WRITE: "mlflow:write"}.get(needed, "mlflow:admin")
    scope = f"the scope '{needed.value}' ('{example}')"
    return f"{what} needs {scope}; this API key does not have it.{hint}"
