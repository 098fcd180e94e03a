"""The hops between here and the proxy, and between it and MLflow: what they change or drop.

Three checks use the proxy's self-test (app/health/self_test.py), which shows how a request arrived,
breaks a transfer off, and refuses with a Retry-After: nothing else makes that happen from outside.
"""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from app.doctor import explain
from app.doctor.connection import ACCEPTED, origin
from app.doctor.mlflow import IS_MLFLOW, READS, SEARCH, TOO_MANY, is_refused
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import Wire, expect

#: Bytes of a whole request line. MLflow's UI asks for 100 runs in one GET, over 4 KB. The proxy
#: accepts 64 KB, but most servers that can be in front accept 8 KB by default.
LONGEST_LINE = 8100
SHORT_LINE = 1000

#: Seconds, in the self-test's refusal.
RETRY_AFTER = "7"

#: Nobody's address (RFC 5737), more often than any meant TRUSTED_PROXY_HOPS.
FORGED = "203.0.113.77"
ENTRIES = 8


@dataclass(frozen=True)
class Hops:
    """Each check returns what it saw."""

    wire: Wire

    def protocol(self) -> str:
        seen = self._seen()
        if seen.get("protocol") == "HTTP/1.0":
            raise Failed.of("http10-hop")
        return f"{seen.get('protocol')}, Host {seen.get('host')}"

    def client_address(self) -> str:
        """The proxy must not count by addresses that a caller puts into X-Forwarded-For."""
        found = self._seen({"X-Forwarded-For": ", ".join([FORGED] * ENTRIES)}).get("client_ip")
        if found == FORGED:
            evidence = f"With X-Forwarded-For: {FORGED}, the proxy sees that address."
            raise Failed.of("forged-address", evidence)
        return f"{found}, whatever a caller writes"

    def counted_hops(self) -> str:
        """TRUSTED_PROXY_HOPS must be the number of hops that name the client. Otherwise all clients
        have the address of the hop in front, and one person's bad keys lock out all."""
        seen = self._seen()
        entries, hops = seen.get("forwarded_for"), seen.get("trusted_hops")
        if entries == hops:
            return f"{hops}, as X-Forwarded-For has entries"
        evidence = (
            f"X-Forwarded-For arrives with {entries} entries, TRUSTED_PROXY_HOPS is {hops}, and "
            f"this client counts as {seen.get('client_ip')}."
        )
        raise Failed.of("shared-address", evidence, entries=entries)

    def scheme(self) -> str:
        """Where TLS ends in front, the proxy must know: cookies and links depend on it."""
        found = str(self._seen().get("scheme"))
        if self.wire.target.root.startswith("https:") and found == "http":
            raise Failed.of("scheme-lost")
        return found

    def broken_transfer(self) -> str:
        """A download that the proxy breaks off on purpose must not look complete."""
        try:
            got = self._self_test("broken-transfer")
        except Failed as failed:
            if failed.fault in ("cut-off", "closed"):
                return "is seen to be broken"
            raise
        if got.status == 502:
            return "becomes a 502"
        evidence = f"The proxy broke it off after {len(got.body)} bytes."
        raise Failed.of("breaks-hidden", evidence, got.request_id)

    def retry_after(self) -> str:
        """The proxy's refusals arrive with their code and with the time to wait."""
        got = self._self_test("refused")
        wait = got.headers.get("Retry-After", "none")
        if got.status == 503 and "error_code" in (got.document() or {}) and wait == RETRY_AFTER:
            return f"Retry-After: {RETRY_AFTER} arrives, with the JSON"
        evidence = (
            f"The proxy sent 503, JSON, Retry-After: {RETRY_AFTER}; here arrived {got.status}, "
            f"Retry-After: {wait}, {explain.excerpt(got)}."
        )
        raise Failed.of("answers-changed", evidence, got.request_id)

    def request_line(self) -> str:
        """As long as most servers accept it."""
        failed = self._refusal_of_line(LONGEST_LINE)
        if failed is None:
            return f"{LONGEST_LINE} bytes"
        if self._refusal_of_line(SHORT_LINE):
            raise failed
        evidence = f"One of {LONGEST_LINE} bytes does not pass: {failed.message}"
        raise Failed.of("request-line-limit", evidence, failed.request_id)

    def _refusal_of_line(self, size: int) -> Failed | None:
        """Why a request line of so many bytes does not pass; None if it does."""
        start = f"GET {urlsplit(self.wire.target.root).path}{self.wire.target.prefix}"
        path = "/version?x="
        path += "x" * (size - len(f"{start}{path} HTTP/1.1\r\n"))
        try:
            got = self.wire.mlflow(path)
        except Failed as failed:
            return failed
        return None if got.status == 200 else explain.response(got)

    def encoded_slash(self) -> str:
        """A slash inside a segment, as %2F: MLflow decodes it, no hop should."""
        got = self.wire.mlflow(SEARCH.replace("/experiments", "%2Fexperiments") + "?max_results=1")
        if got.status == 404 and got.document() is None:
            raise explain.response(got, key="encoded-slash")
        expect(got)
        return "arrives"

    def own_origin(self) -> str:
        """A browser's write from MLflow's own page; a search, which writes nothing."""
        got = self._search({"Origin": origin(self.wire.target.root)})
        if got.status == 200:
            return "accepted"
        key = ""
        if got.status == 403 and not got.is_page:
            key = "origin-check" if got.document() is None else "host-rewritten"
        raise explain.response(got, "200", key)

    def foreign_origin(self) -> str:
        """The same from another site's page must not pass."""
        got = self._search({"Origin": "https://foreign.example"})
        if got.status == 403:
            return "refused"
        raise explain.response(got, "403", "origin-lost" if got.status == 200 else "")

    def chunked(self) -> str:
        """A body without Content-Length, on a route where MLflow itself would lose it."""
        body = json.dumps(TOO_MANY).encode()
        got = self._search({}, iter([body[:5], body[5:]]))
        if is_refused(got):
            return "arrives complete"
        is_lost = got.status in (200, 400, 411, 413, 501)  # what a lost body leads to
        raise explain.response(got, "MLflow's own 400", "chunked-lost" if is_lost else "")

    def _seen(self, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """How the proxy saw a request."""
        return self._self_test("seen", headers).document() or {}

    def _self_test(self, name: str, headers: dict[str, str] | None = None) -> explain.Response:
        got = self.wire.mlflow(f"/health/mlflow/self-test/{name}", headers=headers)
        if got.status == 404:
            raise Skipped("this proxy has no self-test")
        return got

    def _search(
        self, headers: dict[str, str], data: Any = b'{"max_results": 1}'
    ) -> explain.Response:
        headers = {"Content-Type": "application/json"} | headers
        return self.wire.mlflow(SEARCH, "POST", headers, data=data)


def run(steps: Steps, hops: Hops) -> None:
    """No step needs another: each hop can be wrong in one way only."""
    for name, check, needs in (
        ("requests arrive as HTTP/1.1", hops.protocol, ACCEPTED),
        ("a caller's X-Forwarded-For", hops.client_address, ACCEPTED),
        ("the hops that name the client", hops.counted_hops, ACCEPTED),
        ("http or https", hops.scheme, ACCEPTED),
        ("a broken transfer looks broken", hops.broken_transfer, ACCEPTED),
        ("a refusal arrives with Retry-After", hops.retry_after, ACCEPTED),
        ("a request line of 8 KB", hops.request_line, IS_MLFLOW),
        ("an encoded slash (%2F)", hops.encoded_slash, READS),
        ("a write from its own page (Origin)", hops.own_origin, READS),
        ("a write from a foreign page", hops.foreign_origin, READS),
        ("a chunked body", hops.chunked, READS),
    ):
        steps.run(name, check, needs)
