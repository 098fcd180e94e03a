"""What an answer or a network error means, and what to do: one table for each.

Knows no HTTP library, so that answers of `requests` and errors of the MLflow SDK are explained
by the same words.
"""

import errno
import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from app.doctor.steps import Failed

WHOLE_KEY = (
    "Check that the variable holds the whole key and nothing else. An unknown, revoked or expired "
    "key and one that is bound to other addresses look the same: ask for a new one."
)
WRONG_PREFIX = (
    "Check the path in --uri: it ends in /api/mlflow or /mlflow, and the load balancer must route "
    "it to the proxy."
)

# From whoever speaks JSON: the proxy, or MLflow behind it.
REMEDIES: dict[int, str] = {
    400: "The message says what was refused; the proxy's log has the request under this id.",
    401: WHOLE_KEY,
    403: "Ask for a key with the scope that the message names, or use one that has it.",
    404: WRONG_PREFIX,
    413: "Raise the limit that the message names, or the one of the hop that answered.",
    429: "Wait for the time that the answer names, or ask for a key with a higher limit.",
    500: "MLflow itself failed: read its log at this time.",
    502: "The proxy does not reach MLflow: is it running, is MLFLOW_SERVER_URL right, does the "
    "security group let the proxy in on its port?",
    503: "The message says which part is out. /ready and /api/health/mlflow/detailed tell more.",
    504: "MLflow is too slow: look at its load and its database, or raise MLFLOW_READ_TIMEOUT.",
}
# From anything else: a load balancer, a firewall, a website.
FOREIGN_REMEDIES: dict[int, str] = {
    200: "A login page or a website stands in front of the proxy, or --uri names the wrong host.",
    400: "If the text speaks of an HTTPS port, use https:// in --uri.",
    403: "A firewall or MLflow refused it before the proxy could answer: look at WAF rules, and "
    "that --uri names the proxy.",
    404: WRONG_PREFIX,
    413: "A hop in front of the proxy limits the size of bodies: raise its limit.",
    502: "The load balancer got no answer from the proxy: is it running, does its security group "
    "let the load balancer in on port 8000?",
    503: "The load balancer has no healthy target: look at the target group's health checks.",
    504: "The load balancer waited too long for the proxy: raise its idle time-out.",
}
# The names of faults (faults.py) that a status alone gives away.
FAULTS = {
    401: "bad-key",
    403: "no-scope",
    404: "wrong-prefix",
    413: "body-limit",
    414: "request-line-limit",
    429: "rate-limited",
    500: "mlflow-failing",
    502: "mlflow-down",
    503: "unavailable",
    504: "mlflow-slow",
}
FOREIGN_FAULTS = {
    200: "not-the-proxy",
    401: "not-the-proxy",
    403: "firewall",
    404: "wrong-prefix",
    413: "body-limit",
    414: "request-line-limit",
    502: "proxy-down",
    503: "proxy-down",
    504: "proxy-down",
}
HOST_REFUSED = (
    "MLflow refuses the Host that it is called by: the proxy must send MLflow's own (is "
    "MLFLOW_SERVER_URL right?), or MLflow's --allowed-hosts must name it."
)

#: In each of the proxy's own answers that say so (app/upstream/answers.py).
PROXY_REFUSED = "Your key is not the cause"
PROXY_REFUSED_REMEDY = (
    "MLflow refuses the proxy itself: check MLFLOW_UPSTREAM_TOKEN, or MLFLOW_UPSTREAM_USERNAME and "
    "_PASSWORD, and what that account may do in MLflow."
)


@dataclass(frozen=True)
class Answer:
    """One answer over HTTP. `headers` finds names in any case; `ms` is the time to its last byte,
    `sent_id` the X-Request-ID of the request or ""."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    ms: float = 0.0
    sent_id: str = ""

    @property
    def request_id(self) -> str:
        return self.headers.get("X-Request-ID", "") or self.sent_id

    @property
    def is_page(self) -> bool:
        """Is it for a browser? By its body: MLflow calls its plain version text/html too."""
        return self.body.lstrip()[:1] == b"<"

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def document(self) -> dict[str, Any] | None:
        """The JSON object in the body, or None if it is anything else."""
        if "json" not in self.headers.get("Content-Type", ""):
            return None
        try:
            found = json.loads(self.body)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


def answer(got: Answer, wanted: str = "") -> Failed:
    """Explain an answer that is not what the step hoped for.

    Args:
        wanted: what was hoped for, as "200 with JSON"; "" leaves it out.
    """
    hope = f" (hoped for {wanted})" if wanted else ""
    message = f"{got.method} {got.path} answered {got.status}{hope}: {excerpt(got)}"
    return Failed(message, remedy_for(got), got.request_id, fault_for(got))


def fault_for(got: Answer) -> str:
    """The name of the fault behind an answer; "" if its status names none."""
    if 300 <= got.status < 400:
        return "redirected"
    if "Invalid Host header" in got.text:
        return "host-check"
    if PROXY_REFUSED in got.text:
        return "proxy-refused"
    return (FOREIGN_FAULTS if got.document() is None else FAULTS).get(got.status, "")


def excerpt(got: Answer) -> str:
    """The answer's own words, short: the message of an error, the title of a page."""
    document = got.document()
    if document is not None and "message" in document:
        return f"{document.get('error_code', '')} {document['message']}".strip()[:400]
    if got.is_page:
        title = re.search(r"<title>(.*?)</title>", got.text, re.IGNORECASE | re.DOTALL)
        return f"an HTML page{f' «{title[1].strip()[:80]}»' if title else ''}"
    return " ".join(got.text.split())[:200] or "an empty body"


def remedy_for(got: Answer) -> str:
    if 300 <= got.status < 400:
        return _elsewhere(got.headers.get("Location", ""))
    if "Invalid Host header" in got.text:
        return HOST_REFUSED
    if PROXY_REFUSED in got.text:
        return PROXY_REFUSED_REMEDY
    remedies = FOREIGN_REMEDIES if got.document() is None else REMEDIES
    remedy = remedies.get(got.status, REMEDIES.get(got.status, ""))
    if wait := got.headers.get("Retry-After", ""):
        remedy += f" Retry-After: {wait} s."
    return remedy.strip()


def _elsewhere(location: str) -> str:
    parts = urlsplit(location)
    if parts.scheme and parts.netloc:
        return f"It redirects to {parts.scheme}://{parts.netloc}: use that in --uri."
    return f"It redirects to {location or 'nowhere'}: {WRONG_PREFIX}"


# First match wins, so a subclass stands above its parent.
NETWORK: tuple[tuple[type[BaseException], str, str, str], ...] = (
    (
        socket.gaierror,
        "dns",
        "the host's name is not known to DNS",
        "Check the spelling of --uri, the DNS record and, for an internal name, that you are in "
        "its network.",
    ),
    (
        ssl.SSLCertVerificationError,
        "certificate",
        "the certificate is not accepted",
        "Check that it covers this host and has not expired; for an authority of your own give "
        "--ca-file.",
    ),
    (
        ssl.SSLError,
        "tls",
        "the TLS handshake failed",
        "Does the port speak TLS? If not, use http:// in --uri, or the port that does.",
    ),
    (
        ConnectionRefusedError,
        "not-listening",
        "nothing listens there",
        "Start the proxy, or check host and port in --uri.",
    ),
    (
        TimeoutError,
        "no-answer",
        "no answer within the time-out",
        "If nothing comes at all, a firewall or security group drops the packets; if it is only "
        "slow, raise --timeout.",
    ),
    (
        http.client.IncompleteRead,
        "cut-off",
        "the answer broke off before its end",
        "The transfer was cut: look for a restart, a time-out or a size limit on the way.",
    ),
    (
        ConnectionError,
        "closed",
        "the connection was closed before an answer came",
        "Is it https:// that the port speaks? Otherwise the proxy or a hop in front of it ended "
        "the connection: look at their logs.",
    ),
)
UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH}


def network(error: BaseException, where: str, request_id: str = "") -> Failed:
    """Explain why no (whole) answer came.

    Args:
        where: what was tried, as "GET /health" or "host:port".
    """
    causes = list(chain(error))
    for kind, fault, meaning, remedy in NETWORK:
        for cause in causes:
            if isinstance(cause, kind):
                said = f"{where}: {meaning}{_own_words(cause)}."
                return Failed(said, remedy, request_id, fault)
    if any(isinstance(cause, OSError) and cause.errno in UNREACHABLE for cause in causes):
        said = f"{where}: there is no route to the host."
        return Failed(said, "Are you in its network (VPN)?", request_id, "no-route")
    words = str(error).strip().split("\n")[0][:300]
    return Failed(f"{where}: {words or type(error).__name__}.", "", request_id, "no-answer")


def is_network(error: BaseException) -> bool:
    kinds = tuple(kind for kind, _, _, _ in NETWORK)
    return any(isinstance(cause, kinds) for cause in chain(error))


def _own_words(cause: BaseException) -> str:
    """What OpenSSL says of a certificate is worth repeating; the others say nothing more."""
    words = getattr(cause, "verify_message", "") or getattr(cause, "reason", "")
    return f" ({words})" if isinstance(cause, ssl.SSLError) and words else ""


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that led to it; urllib3 keeps some of that in `reason`."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [current.__cause__, current.__context__, getattr(current, "reason", None)]
        waiting += [arg for arg in current.args if isinstance(arg, BaseException)]
