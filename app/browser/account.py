"""Who calls: for paths that any valid key may use, as JSON at whoami, on the page after sign-in."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, g, request

from app.auth.authorization import granted
from app.auth.workspaces import own_workspaces
from app.request.credentials import Counted, SessionTokens, identify
from app.request.inbound import check_query, client_address
from app.request.principal import Principal, utc
from app.request.route_table import Access
from app.responses import json_response
from app.services import Services

PATHS = ("/api/mlflow/whoami", "/mlflow/whoami")

#: The rights in words, in the order of the page.
RIGHTS = {
    Access.READ: "read",
    Access.WRITE: "write",
    Access.DELETE: "delete",
    Access.GATEWAY: "call the AI gateway",
    Access.ADMIN: "administer",
}


def blueprint(services: Services) -> Blueprint:
    """whoami, for any valid key or session. It needs no scope and counts against no limit."""
    routes = Blueprint("account", __name__)

    def whoami() -> Response:
        require_a_key(services)
        split_scopes = services.settings.split_scopes
        return json_response(describe(g.record.principal, split_scopes, g.record.limit_fields))

    for path in PATHS:
        routes.add_url_rule(path, "whoami", whoami)
    return routes


def require_a_key(services: Services) -> None:
    """Raise unless this request has a valid key or session. Record whose it is, and what is left of
    its limit."""
    environ, hops = request.environ, services.settings.trusted_proxy_hops
    check_query(request.query_string.decode("latin-1"))
    credentials = identify(environ, hops)
    found = services.authenticator.authenticate(credentials, client_address(environ, hops))
    g.record.principal, g.record.auth_source = found.principal, found.source
    counted: Counted = "session" if isinstance(credentials, SessionTokens) else "key"
    g.record.limit_fields = services.limits.left(found.principal, counted)


def describe(principal: Principal, split_scopes: bool, left: Mapping[str, str]) -> dict[str, Any]:
    """The document of whoami. `left` holds the X-RateLimit fields, none for a key without a
    limit."""
    own = granted(principal, split_scopes)
    return {
        "user_id": principal.user_id,
        "key_id": principal.key_id,
        "service_id": principal.service_id,
        "scopes": sorted(principal.scopes),
        "workspaces": list(own_workspaces(principal)),
        "may": [access.value for access in RIGHTS if access in own],
        "limit": _limit(left) if left else None,
        "expires_at": utc(principal.expires_at) if principal.expires_at else None,
    }


def _limit(left: Mapping[str, str]) -> dict[str, Any]:
    return {
        "requests_per_hour": int(left["X-RateLimit-Limit"]),
        "remaining": int(left["X-RateLimit-Remaining"]),
        "more_at": utc(int(left["X-RateLimit-Reset"])),
    }


def rights(principal: Principal, split_scopes: bool) -> str:
    """The rights of a key, such as "read, write and delete"; `split_scopes` as SPLIT_SCOPES."""
    own = granted(principal, split_scopes)
    *first, last = [word for access, word in RIGHTS.items() if access in own] or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last
