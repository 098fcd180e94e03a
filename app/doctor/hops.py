"""What stands between here and the proxy, and between it and MLflow: does it pass everything on?

Three of these ask the proxy's self-test (app/health/self_test.py), which shows how a request
arrived, breaks a transfer off, and refuses with a Retry-After; none of that can be made to happen
from outside otherwise.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from app.doctor import explain
from app.doctor.behind import IS_MLFLOW, READS
from app.doctor.door import ACCEPTED
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import Wire, credential, expect

#: Bytes of a whole request line. MLflow's UI asks for 100 runs in one GET, over 4 KB. The proxy
#: takes 64 KB, but most servers that could stand in front take 8 KB by default.
LONGEST_LINE = 8100
LINES = (6000, 4000, 3000, 2000, 1000)

#: What the self-test's refusal tells to wait, in seconds.
RETRY_AFTER = "7"

#: Nobody's address (RFC 5737), and more of it than any TRUSTED_PROXY_HOPS that is meant.
FORGED = "203.0.113.77"
ENTRIES = 8

TOO_MANY = {"max_results": 10_000_000}  # which MLflow refuses, if it sees the body


@dataclass(frozen=True)
class Hops:
    """Each check returns what it saw."""

    wire: Wire

    def request_line(self) -> str:
        """As long as the proxy takes it."""
        got = self._line_of(LONGEST_LINE)
        if got is not None and got.status == 200:
            return f"{LONGEST_LINE} bytes"
        passed = next((size for size in LINES if self._passes(size)), 0)
        if not passed:
            raise explain.answer(got) if got is not None else Failed("No request line passes.")
        answered = f"answered {got.status}" if got is not None else "got no answer"
        raise Failed(
            f"A request line of {LONGEST_LINE} bytes {answered}; one of {passed} passes.",
            "A hop in front limits request lines (nginx: large_client_header_buffers; gunicorn: "
            "limit_request_line); raise it to 8 KB, or MLflow's UI fails on many runs.",
            got.request_id if got is not None else "",
            "request-line-limit",
        )

    def _passes(self, size: int) -> bool:
        got = self._line_of(size)
        return got is not None and got.status == 200

    def _line_of(self, size: int) -> explain.Answer | None:
        """The answer to a request line of so many bytes; None if there was none."""
        path = f"{self.wire.target.prefix}/version?x="
        rest = size - len(f"GET {urlsplit(self.wire.target.root).path}{path} HTTP/1.1\r\n")
        try:
            return self.wire.get(path + "x" * rest, self._key())
        except Failed:
            return None

    def own_origin(self) -> str:
        """A browser's write from MLflow's own page; a search, which writes nothing."""
        got = self._search({"Origin": self._origin()})
        if got.status == 200:
            return "taken"
        failed = explain.answer(got, "200")
        if got.status == 403 and got.document() is not None:
            failed.fault = "host-rewritten"
            failed.remedy = (
                "A hop in front of the proxy replaces Host (nginx: proxy_set_header Host "
                "$http_host), or MLflow's page would be of another site."
            )
        elif got.status == 403 and not got.is_page:
            failed.fault = "origin-check"
            failed.remedy = "MLflow sees Origin, which the proxy takes off: is there another hop?"
        raise failed

    def foreign_origin(self) -> str:
        """The same from another site's page must not pass."""
        got = self._search({"Origin": "https://foreign.example"})
        if got.status == 403:
            return "refused"
        if got.status != 200:
            raise explain.answer(got, "403")
        raise Failed(
            "A write from another site's page passes.",
            "A hop in front takes Origin off; let it through, or any page can write with the key "
            "that a browser keeps.",
            got.request_id,
            "origin-lost",
        )

    def chunked(self) -> str:
        """A body without Content-Length, on a route where MLflow itself would lose it."""
        headers = {"Content-Type": "application/json"}
        got = self._search(headers, data=_pieces(json.dumps(TOO_MANY).encode()))
        code = (got.document() or {}).get("error_code")
        if got.status == 400 and code == "INVALID_PARAMETER_VALUE":
            return "arrives whole"
        failed = explain.answer(got, "MLflow's own 400")
        if got.status in (200, 400, 411, 413, 501):  # what a body that did not arrive leads to
            failed.fault = "chunked-lost"
            failed.remedy = "A hop drops or refuses chunked bodies: it must pass them on."
        raise failed

    def protocol(self) -> str:
        """What the proxy saw of a request."""
        seen = self._self_test("seen").document() or {}
        if seen.get("protocol") == "HTTP/1.0":
            raise Failed(
                "Requests reach the proxy as HTTP/1.0: something in between speaks that.",
                "nginx: proxy_http_version 1.1 and an empty Connection header. With 1.0 each "
                "request needs a connection of its own, and only a reset tells that a transfer "
                "broke.",
                fault="http10-hop",
            )
        return f"{seen.get('protocol')}, Host {seen.get('host')}"

    def client_address(self) -> str:
        """Addresses that a caller puts into X-Forwarded-For must not count."""
        sent = {"X-Forwarded-For": ", ".join([FORGED] * ENTRIES)}
        found = (self._self_test("seen", sent).document() or {}).get("client_ip")
        if found == FORGED:
            raise Failed(
                f"A caller that sends X-Forwarded-For: {FORGED} has that address for the proxy.",
                "TRUSTED_PROXY_HOPS counts the hops that append to X-Forwarded-For. Lower it, or "
                "let the hop in front append (nginx: proxy_set_header X-Forwarded-For "
                "$proxy_add_x_forwarded_for; HAProxy: option forwardfor; Envoy: "
                "use_remote_address).",
                fault="forged-address",
            )
        return f"{found}, whatever a caller writes"

    def counted_hops(self) -> str:
        """TRUSTED_PROXY_HOPS must be the number of hops that name the client. Where it is not, all
        clients have the address of the hop in front, and one person's bad keys lock out all."""
        seen = self._self_test("seen").document() or {}
        entries, hops = seen.get("forwarded_for"), seen.get("trusted_hops")
        if not isinstance(entries, int) or not isinstance(hops, int):
            raise Skipped("this proxy does not tell")
        if entries == hops:
            return f"{hops}, as X-Forwarded-For has entries"
        remedy = (
            "Let each hop in front append its client to X-Forwarded-For (nginx: proxy_set_header "
            "X-Forwarded-For $proxy_add_x_forwarded_for), or lower TRUSTED_PROXY_HOPS."
        )
        if entries > hops:
            remedy = (
                f"Set TRUSTED_PROXY_HOPS={entries}, if all of these hops are yours: a proxy on "
                "this side, which you asked through, does not count."
            )
        raise Failed(
            f"X-Forwarded-For arrives with {entries} entries, and TRUSTED_PROXY_HOPS is {hops}: "
            f"this client, and every other one, counts as {seen.get('client_ip')}.",
            remedy,
            fault="shared-address",
        )

    def scheme(self) -> str:
        """Where TLS ends in front, the proxy has to be told: cookies and links depend on it."""
        found = str((self._self_test("seen").document() or {}).get("scheme"))
        if self.wire.target.tls and found == "http":
            raise Failed(
                "This is https, and the proxy takes it for http.",
                "The hop that ends TLS must set X-Forwarded-Proto (nginx: proxy_set_header "
                "X-Forwarded-Proto $scheme), and TRUSTED_PROXY_HOPS must count it; else the "
                "cookie of a sign-in is not Secure, and redirects lead to http.",
                fault="scheme-lost",
            )
        return found

    def encoded_slash(self) -> str:
        """A slash inside a segment, as %2F: MLflow decodes it, nobody else should."""
        path = f"{self.wire.target.prefix}/api/2.0/mlflow%2Fexperiments/search?max_results=1"
        got = self.wire.get(path, self._key())
        if got.status == 404 and got.document() is None:
            raise Failed(
                "A path with %2F in it is answered 404, not by the proxy.",
                "A hop in front refuses encoded slashes (Apache: AllowEncodedSlashes NoDecode, and "
                "nocanon at ProxyPass).",
                got.request_id,
                "encoded-slash",
            )
        expect(got)
        return "arrives"

    def broken_transfer(self) -> str:
        """A download that the proxy breaks off on purpose must not look whole."""
        try:
            got = self._self_test("broken-transfer")
        except Failed as failed:
            if failed.fault in ("cut-off", "closed"):
                return "is seen to be broken"
            raise
        if got.status == 502:
            return "becomes a 502"
        raise Failed(
            f"The proxy broke a transfer off, and here it looks whole: {len(got.body)} bytes.",
            "A hop in front hides that transfers break (a cache, or HTTP/1.0): do not let it near "
            "artifacts.",
            got.request_id,
            "breaks-hidden",
        )

    def retry_after(self) -> str:
        """The proxy's refusals arrive with their code and with the time to wait."""
        got = self._self_test("refused")
        code = (got.document() or {}).get("error_code")
        if got.status == 503 and code and got.headers.get("Retry-After") == RETRY_AFTER:
            return f"Retry-After: {RETRY_AFTER} arrives, with the JSON"
        raise Failed(
            f"The proxy said 503, JSON, Retry-After: {RETRY_AFTER}; here arrived {got.status}, "
            f"Retry-After: {got.headers.get('Retry-After', 'none')}, {explain.excerpt(got)}.",
            "A hop in front replaces error answers (nginx: proxy_intercept_errors off); clients "
            "need them to know when to come back.",
            got.request_id,
            "answers-changed",
        )

    def _self_test(self, name: str, headers: dict[str, str] | None = None) -> explain.Answer:
        path = f"{self.wire.target.prefix}/health/mlflow/self-test/{name}"
        got = self.wire.get(path, self._key() | (headers or {}))
        if got.status == 404:
            raise Skipped("this proxy has no self-test")
        return got

    def _search(self, headers: dict[str, str], **body: Any) -> explain.Answer:
        path = f"{self.wire.target.prefix}/api/2.0/mlflow/experiments/search"
        content: dict[str, Any] = body or {"json": {"max_results": 1}}
        return self.wire.send("POST", path, self._key() | headers, **content)

    def _key(self) -> dict[str, str]:
        return credential(self.wire.options.key)

    def _origin(self) -> str:
        parts = urlsplit(self.wire.target.root)
        return f"{parts.scheme}://{parts.netloc}"


def _pieces(content: bytes) -> Iterator[bytes]:
    """Sent in two chunks."""
    yield content[:5]
    yield content[5:]


def run(steps: Steps, hops: Hops) -> None:
    """None needs another: each may be wrong by itself."""
    steps.run("requests arrive as HTTP/1.1", hops.protocol, needs=ACCEPTED)
    steps.run("a caller's X-Forwarded-For", hops.client_address, needs=ACCEPTED)
    steps.run("the hops that name the client", hops.counted_hops, needs=ACCEPTED)
    steps.run("http or https", hops.scheme, needs=ACCEPTED)
    steps.run("a broken transfer looks broken", hops.broken_transfer, needs=ACCEPTED)
    steps.run("a refusal arrives with Retry-After", hops.retry_after, needs=ACCEPTED)
    steps.run("a request line of 8 KB", hops.request_line, needs=IS_MLFLOW)
    steps.run("an encoded slash (%2F)", hops.encoded_slash, needs=READS)
    steps.run("a write from its own page (Origin)", hops.own_origin, needs=READS)
    steps.run("a write from a foreign page", hops.foreign_origin, needs=READS)
    steps.run("a chunked body", hops.chunked, needs=READS)
