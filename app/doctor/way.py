"""The way to the proxy: DNS, TCP, TLS, and the prefix under which it answers."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from app.doctor import explain
from app.doctor.command_line import PREFIXES
from app.doctor.connection import Connection
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import Wire, expect_unauthenticated

#: What the next stages need.
REACHED = "the prefix leads to the proxy"


@dataclass(frozen=True)
class Way:
    """The checks that need no key."""

    wire: Wire

    def prefix(self) -> str:
        """Without a key, the proxy refuses in its own words; nothing else answers like that."""
        got = self.wire.get(f"{self.wire.target.prefix}/version")
        if self._is_refusal(got):
            return f"{self.wire.target.prefix}: {expect_unauthenticated(got, 'no key')}"
        if got.status != 404 and not got.is_page:
            expect_unauthenticated(got, "no key")
        raise self._explained(got)

    def _explained(self, got: explain.Answer) -> Failed:
        """Another path that is right is worth more than the reason why this one is not."""
        found = self._right_address()
        if found:
            return Failed(
                f"GET {got.path} answered {got.status}: this is not where the proxy is.",
                f"Use {found} instead.",
                got.request_id,
                "wrong-prefix",
            )
        return explain.answer(got, "401 from the proxy")

    def _right_address(self) -> str:
        """A tracking URI of this host at which the proxy answers, "" if there is none."""
        parts = urlsplit(self.wire.target.root)
        for root in dict.fromkeys((self.wire.target.root, f"{parts.scheme}://{parts.netloc}")):
            for prefix in PREFIXES:
                try:
                    got = self.wire.get(f"{prefix}/version", root=root)
                except Failed:
                    continue
                if self._is_refusal(got):
                    return root + prefix
        return ""

    @staticmethod
    def _is_refusal(got: explain.Answer) -> bool:
        document = got.document() or {}
        return got.status == 401 and {"error_code", "message", "request_id"} <= document.keys()

    def health(self) -> str:
        """The load balancer's own probe."""
        got = self.wire.get("/health")
        document = got.document()
        if got.status in (403, 404):
            raise Skipped(f"not routed from here ({got.status})")
        if got.status != 200 or document is None or "version" not in document:
            raise explain.answer(got, "200 with the proxy's version")
        return f"version {document['version']}"


def run(steps: Steps, connection: Connection) -> None:
    """In the order in which a request meets them."""
    way = Way(connection.wire)
    steps.run("DNS knows the host", connection.dns)
    steps.run("TCP connection", connection.tcp, needs="DNS knows the host")
    steps.run("TLS handshake", connection.tls, needs="TCP connection")
    steps.run(REACHED, way.prefix, needs="TLS handshake")
    steps.run("GET /health", way.health, needs=REACHED)
