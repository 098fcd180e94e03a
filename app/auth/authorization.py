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
DELETE_SCOPES = frozenset(("delete", "mlflow:delete"))
GATEWAY_SCOPES = frozenset(("gateway", "mlflow:gateway"))
ADMIN_SCOPES = frozenset(("admin", "mlflow:admin", "registry:admin"))
SCOPES = READ_SCOPES | WRITE_SCOPES | DELETE_SCOPES | GATEWAY_SCOPES | ADMIN_SCOPES

#: What an admin may do.
EVERY_ACCESS = frozenset(Access) - {Access.REFUSED}

#: The operation of MLflow's scripts, styles and images: public code, the same for everyone.
STATIC_FILES = "ServeStaticFile"


def authorize(
    principal: Principal,
    inbound: Inbound,
    route: Route | None,
    unknown: Callable[[str], NoSuchPath | None] = lambda path: None,
    split_scopes: bool = False,
    provider: str = "",
) -> Permit:
    """Make a Permit; raise Forbidden with the missing scope. `split_scopes` as SPLIT_SCOPES,
    `provider` as in Permit.

    `unknown` returns a NoSuchPath for a path without a row that MLflow cannot have. It is raised
    unless the caller is an admin, whose request is forwarded.
    """
    if route is not None and route.access is Access.REFUSED:
        raise Forbidden(
            "MLflow's assistant can run programs on the server; this proxy refuses it to everyone."
        )
    needed = route.access if route is not None else Access.ADMIN
    if needed not in granted(principal, split_scopes):
        if route is None and (missing := unknown(inbound.decoded_path)):
            raise missing
        raise Forbidden(_missing(needed, inbound, route))
    return Permit(principal, inbound, route, provider)


#: The anonymous principal of requests for public files; MLflow gets no identity.
ANYBODY = Principal("", "", "", frozenset(), None, False)


def authorize_anybody(inbound: Inbound, route: Route | None) -> Permit:
    """Make a Permit without a key, for MLflow's static files only."""
    if route is None or route.operation != STATIC_FILES or inbound.method not in ("GET", "HEAD"):
        raise NoSuchPath("MLflow has no static file of this name.")
    if inbound.chunked or inbound.content_length:
        raise BadRequest("A request for a static file has no body.")
    return Permit(ANYBODY, inbound, route)


def granted(principal: Principal, split_scopes: bool = False) -> frozenset[Access]:
    """The kinds of access that a principal's scopes grant; unknown scopes grant none. A scope to
    write grants deleting too, unless SPLIT_SCOPES is on."""
    scopes = principal.scopes
    if is_admin(principal):
        return EVERY_ACCESS
    writes = bool(scopes & WRITE_SCOPES)
    grants = {
        Access.READ: writes or scopes & READ_SCOPES,
        Access.WRITE: writes,
        Access.DELETE: (writes and not split_scopes) or scopes & DELETE_SCOPES,
        Access.GATEWAY: scopes & GATEWAY_SCOPES,
    }
    return frozenset(access for access, is_granted in grants.items() if is_granted)


def is_admin(principal: Principal) -> bool:
    """Whether the key has the admin scope."""
    return principal.is_admin or bool(principal.scopes & ADMIN_SCOPES)


def _missing(needed: Access, inbound: Inbound, route: Route | None) -> str:
    """The message that names the missing scope."""
    what, hint = f"{inbound.method} {inbound.path}", ""
    if route is None:
        what += ", which is not a known MLflow route,"
        if inbound.method == "GET":  # a load balancer redirects http to https with a 301
            hint = (
                " If you sent a POST, a redirect made it a GET: use https:// in the tracking URI."
            )
    scope = f"the scope '{needed.value}' ('mlflow:{needed.value}')"
    return f"{what} needs {scope}; this API key does not have it.{hint}"
