"""What a response or a network error means, out of the catalogue of faults.

Knows no HTTP library, so that responses of `requests` and errors of the MLflow SDK get the same
explanation.
"""

import json
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import IncompleteRead
from typing import Any

from app.doctor.steps import Failed
from app.health.faults import Fault, causes, fault, why_no_response

#: Keys of the catalogue by status, for a response in JSON: the proxy's, or MLflow's behind it.
JSON_FAULTS = {
    400: "refused",
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
#: The same for any other response: of a load balancer, a firewall, a website.
FOREIGN_FAULTS = JSON_FAULTS | {
    200: "not-the-proxy",
    400: "refused early",
    401: "not-the-proxy",
    403: "firewall",
    502: "proxy-down",
    503: "proxy-down",
    504: "proxy-down",
}

#: Words that name the fault whatever the status: MLflow's about a Host header, and the proxy's
#: where MLflow refuses the proxy itself (app/upstream/answers.py).
WORDS = {
    "Invalid Host header": "mlflow.host",
    "lacks the permission for this call": "mlflow.permission",
    "Your key is not the cause": "mlflow.credentials",
    "outside ALLOWED_LOCATIONS": "location-refused",
}

NETWORK = (socket.gaierror, ssl.SSLError, TimeoutError, ConnectionError, IncompleteRead)


@dataclass(frozen=True)
class Response:
    """One HTTP response. `headers` finds names in any case; `ms` is the time to its last byte,
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
        """Whether it is for a browser. By its body: MLflow calls its plain version text/html."""
        return self.body.lstrip()[:1] == b"<"

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def seen(self) -> str:
        """What happened, for a sentence."""
        return f"{self.method} {self.path} answered {self.status}"

    def document(self) -> dict[str, Any] | None:
        """The JSON object in the body, or None if it is anything else."""
        try:
            found = (
                json.loads(self.body) if "json" in self.headers.get("Content-Type", "") else None
            )
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


def response(got: Response, wanted: str = "", key: str = "") -> Failed:
    """Explains a response that is not the expected one, such as `wanted` "200 with JSON". `key` is
    the fault, where the caller knows better than the response tells."""
    found = fault(key) if key else fault_of(got)
    expected = f" (expected {wanted})" if wanted else ""
    wait = got.headers.get("Retry-After", "")
    return Failed(
        f"{found.message} {got.seen}{expected}: {excerpt(got)}",
        f"{found.remedy} Retry-After: {wait} s." if wait else found.remedy,
        got.request_id,
        found.code,
    )


def fault_of(got: Response) -> Fault:
    """The fault behind a response."""
    if 300 <= got.status < 400:
        return fault("redirected")
    for words, key in WORDS.items():
        if words in got.text:
            return fault(key)
    faults = FOREIGN_FAULTS if got.document() is None else JSON_FAULTS
    return fault(faults.get(got.status, "unexpected"))


def excerpt(got: Response) -> str:
    """The response in short: the message of an error, the title of a page, a redirect's target."""
    document = got.document()
    if 300 <= got.status < 400:
        return f"it redirects to {got.headers.get('Location', '') or 'nowhere'}"
    if document is not None and "message" in document:
        return f"{document.get('error_code', '')} {document['message']}".strip()[:400]
    if got.is_page:
        title = re.search(r"<title>(.*?)</title>", got.text, re.IGNORECASE | re.DOTALL)
        return f"an HTML page{f' «{title[1].strip()[:80]}»' if title else ''}"
    return " ".join(got.text.split())[:200] or "an empty body"


def network(error: BaseException, where: str, request_id: str = "", sent: bool = True) -> Failed:
    """Explains why there was no (whole) response. `where` is what was tried, as "GET /health" or
    "host:port"; `sent`: a request may have been sent, not only a connection tried."""
    key = f"network.{why_no_response(error, sent)}"
    if any(isinstance(cause, IncompleteRead) for cause in causes(error)):
        key = "cut-off"
    words = next(filter(None, map(_own_words, causes(error))), "")
    if not is_network(error):
        words = f" ({str(error).strip().splitlines()[0][:300]})" if str(error).strip() else ""
    proxy = {"part": "The proxy", "setting": "the tracking URI"}
    return Failed.of(key, f"Tried: {where}{words}.", request_id, **proxy)


def is_network(error: BaseException) -> bool:
    """Whether a failed connection is behind the error."""
    return any(isinstance(cause, NETWORK) for cause in causes(error))


def _own_words(cause: BaseException) -> str:
    """OpenSSL's words about a certificate say more than ours; those of other errors do not."""
    words = getattr(cause, "verify_message", "") or getattr(cause, "reason", "")
    return f" ({words})" if isinstance(cause, ssl.SSLError) and words else ""
