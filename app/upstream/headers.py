"""Header fields both ways: remove hop-by-hop and identity fields, add the proxy's own.

Strip before injecting, and in every spelling: WSGI folds `X-Hokusai-User-Id`, `x-hokusai-user-id`
and (where a server lets it pass) `X_Hokusai_User_Id` into one name. So names are compared in that
folded form, HTTP_X_HOKUSAI_USER_ID.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote

from app.request.credentials import OURS
from app.request.permit import Permit
from app.request.route_table import Access

#: Hop-by-hop fields (RFC 9110 section 7.6.1), and framing, which each hop sets for itself.
HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-authentication-info",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "expect",
    )
)

#: Fields that a client must not send to MLflow: its credentials, identity and address.
#: Host: MLflow checks it against its own names, so the proxy sends that of MLflow's address.
#: Origin: the proxy checks it. X-MLflow-Workspace: app/auth/workspaces.py chooses it.
NOT_FORWARDED = HOP_BY_HOP | {
    "authorization",
    "content-length",
    "cookie",
    "forwarded",
    "host",
    "origin",
    "proxy",
    "remote-user",
    "traceparent",
    "via",
    "x-api-key",
    "x-client-ip",
    "x-real-ip",
    "x-request-id",
}
NOT_FORWARDED_PREFIXES = (
    "x-hokusai-",
    "x-forwarded-",
    "x-mlflow-authorization",
    "x-mlflow-workspace",
    "x-mlflow-gateway-",
    "x-mlflow-guardrail-",
    "x-mlflow-user",
    "x-remote-",
    "x-auth-",
    "x-user",
    "x-original-",
    "x-rewrite-",
    "x-amzn-oidc-",
    "proxy-",
)

#: Fields that every proxy removes or replaces, so no caller is surprised; and the workspace, which
#: is checked. All others that are not forwarded are listed in X-Hokusai-Dropped-Headers.
REMOVED_EVERYWHERE = (HOP_BY_HOP - {"trailer"}) | {
    "authorization",
    "content-length",
    "cookie",
    "forwarded",
    "host",
    "origin",
    "traceparent",
    "via",
    "x-api-key",
    "x-client-ip",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-mlflow-workspace",
    "x-real-ip",
    "x-request-id",
}

#: Variable with the names that gunicorn dropped, with commas (app/server/client_head.py).
SERVER_DROPPED = "HTTP_HOKUSAI DROPPED"

#: The field that may hold the key in a call of the AI gateway.
GATEWAY_FIELD = "X-Mlflow-Authorization"

#: Fields for a model provider, which MLflow may pass on: forwarded unless they hold our key.
FOR_PROVIDER = ("x-goog-api-key", "api-key")

#: Names of the clients' fields that are kept in memory.
MOST_KNOWN = 1024

#: Limits on the names repeated to the caller: how many, and characters of each.
MOST_NAMES, LONGEST_NAME = 10, 64


def upstream_headers(permit: Permit, upstream_host: str, own: Mapping[str, str]) -> dict[str, str]:
    """Build the header fields for MLflow: the client's, cleaned, then the proxy's.

    `own` holds the proxy's fixed fields, such as its Authorization. Content-Length and
    Transfer-Encoding are set where the body is framed.
    """
    headers = dict(_cleaned(permit.inbound.environ))
    headers.update(own)
    if _calls_the_gateway(permit):
        headers.update(_at_gateway(permit.provider, headers.pop("Authorization", "")))
    headers["Host"] = upstream_host
    headers.update(_identity(permit))
    return headers


def _calls_the_gateway(permit: Permit) -> bool:
    return permit.route is not None and permit.route.access is Access.GATEWAY


def _at_gateway(provider: str, own: str) -> Iterator[tuple[str, str]]:
    """Yield the credentials for a call of the AI gateway, which may pass Authorization on to its
    provider: the proxy's `own` must not get there, so MLflow takes it in a field of its own."""
    if own:
        is_mlflows = provider or own.startswith("Basic ")
        yield "X-MLflow-Authorization" if is_mlflows else "Authorization", own
        if not is_mlflows:  # by the User-Agent of some programs, MLflow takes it for the client's
            yield "User-Agent", "hokusai-mlflow-proxy"
    if provider:
        yield "Authorization", provider


class _Field(NamedTuple):
    """A header field: whether it is forwarded, and if not, whether the response lists it; and
    whether MLflow may pass it on to a model provider."""

    name: str
    forwarded: bool
    announced: bool
    for_provider: bool


class _Fields(dict[str, _Field]):
    """The field of each WSGI variable such as HTTP_X_USER. Names are kept, but not many and not
    long ones: a head may have one of 64 KB."""

    def __missing__(self, variable: str) -> _Field:
        name = variable[5:].replace("_", "-").lower()
        forwarded = name not in NOT_FORWARDED and not name.startswith(NOT_FORWARDED_PREFIXES)
        announced = not forwarded and name not in REMOVED_EVERYWHERE
        field = _Field(name.title(), forwarded, announced, name in FOR_PROVIDER)
        if len(self) >= MOST_KNOWN:
            self.clear()
        if len(variable) <= LONGEST_NAME:
            self[variable] = field
        return field


_fields = _Fields()


def _cleaned(environ: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the client's header fields that are forwarded, as (name, value)."""
    named_by_connection = {
        token.strip().title() for token in environ.get("HTTP_CONNECTION", "").split(",")
    }
    for variable, value in environ.items():
        if not variable.startswith("HTTP_") or variable == SERVER_DROPPED:
            continue
        field = _fields[variable]
        is_ours = field.for_provider and value.startswith(OURS)
        if field.forwarded and not is_ours and field.name not in named_by_connection:
            yield field.name, value
    if content_type := environ.get("CONTENT_TYPE"):
        yield "Content-Type", content_type


def dropped_names(permit: Permit, answer: Iterable[str]) -> str:
    """List the dropped header fields that the caller may miss, with commas; usually empty. Of the
    client's: claims of an identity or a location, and names with an underscore, which the server
    drops. Of MLflow's `answer` (names): Set-Cookie, because one user's cookies must not reach
    another."""
    environ = permit.inbound.environ
    names = [
        _fields[variable].name[:LONGEST_NAME]
        for variable in environ
        if variable.startswith("HTTP_") and _fields[variable].announced
    ]
    if _calls_the_gateway(permit) and GATEWAY_FIELD in names:
        names.remove(GATEWAY_FIELD)  # it was the key
    if with_underscore := environ.get(SERVER_DROPPED):
        names += [name.title()[:LONGEST_NAME] for name in with_underscore.split(",")]
    if "HTTP_TRACEPARENT" in environ and permit.inbound.traceparent is None:
        names.append("Traceparent")
    if any(name.lower() == "set-cookie" for name in answer):
        names.append("Set-Cookie")
    more = ["and others"] if len(names) > MOST_NAMES else []
    return ", ".join(names[:MOST_NAMES] + more)


def asked_for(permit: Permit) -> dict[str, str]:
    """The header fields of a question that the proxy asks for a caller: MLflow answers it as it
    would answer the caller's request."""
    headers = {"X-Hokusai-User-Id": _header_text(permit.principal.user_id)}
    return headers | ({"X-MLFLOW-WORKSPACE": permit.workspace} if permit.workspace else {})


def _identity(permit: Permit) -> Iterator[tuple[str, str]]:
    """Yield the caller's identity and the request's origin, as the contract names them."""
    principal, inbound = permit.principal, permit.inbound
    if principal.key_id:  # else an anonymous caller, of public files
        yield "X-Hokusai-User-Id", _header_text(principal.user_id)
        yield "X-Hokusai-Key-Id", _header_text(principal.key_id)
        yield "X-Hokusai-Service-Id", _header_text(principal.service_id)
    if permit.workspace:
        yield "X-MLFLOW-WORKSPACE", permit.workspace
    yield "X-Request-ID", inbound.request_id
    yield "X-Forwarded-For", inbound.client_ip
    yield "X-Forwarded-Proto", inbound.scheme
    if inbound.host:
        yield "X-Forwarded-Host", inbound.host
    yield "X-Forwarded-Prefix", inbound.prefix
    if inbound.traceparent:
        yield "traceparent", inbound.traceparent


@lru_cache(maxsize=1024)
def _header_text(value: str) -> str:
    """Percent-encode the characters that a header value must not contain, and `%`: two ids never
    get the same value."""
    return quote(value, safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~")
