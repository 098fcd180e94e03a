"""The connection to the proxy: DNS, TCP, TLS, the prefix at which it answers, and the key."""

import secrets
import socket
import ssl
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import certifi

from app.doctor import explain
from app.doctor.command_line import PREFIXES, Options
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import KEY_FORMS, Wire, credential, expect_unauthenticated

#: What the next stages need.
REACHED = "the prefix leads to the proxy"
ACCEPTED = "the key is accepted"

EXPIRY_WARNING = 14  # days


@dataclass
class Connection:
    """Each check returns what it saw. `detailed` is the detailed health, once the key is accepted:
    any valid key opens it, and MLflow may be down."""

    wire: Wire
    detailed: dict[str, Any] = field(default_factory=dict)

    def dns(self) -> str:
        self._only_direct()
        host, port = self.wire.target.host, self.wire.target.port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise explain.network(error, host) from error
        return ", ".join(sorted({str(row[4][0]) for row in found}))

    def tcp(self) -> str:
        self._only_direct()
        with connect(self.wire.options) as connection:
            address = connection.getpeername()
        return f"{address[0]} port {address[1]}"

    def tls(self) -> str:
        self._only_direct()
        if not self.wire.target.tls:
            raise Skipped("plain http: keys travel unencrypted, for local use only")
        with connect(self.wire.options) as plain, encrypted(plain, self.wire.options) as tls:
            assert isinstance(tls, ssl.SSLSocket)
            certificate = tls.getpeercert() or {}
            return f"{tls.version()}, {expiry(str(certificate.get('notAfter', '')))}"

    def prefix(self) -> str:
        """Without a key, the proxy refuses with its own error; nothing else answers like that."""
        got = self.wire.get(f"{self.wire.target.prefix}/version")
        if _is_refusal(got):
            return f"{self.wire.target.prefix}: {expect_unauthenticated(got, 'no key')}"
        if right := self._right_address():
            failed = explain.response(got, "401 from the proxy", "wrong-prefix")
            failed.remedy = f"Use {right} instead."
            raise failed
        if got.status != 404:
            expect_unauthenticated(got, "no key")
        raise explain.response(got, "401 from the proxy")

    def _right_address(self) -> str:
        """A tracking URI of this host at which the proxy answers, "" if there is none."""
        parts = urlsplit(self.wire.target.root)
        for root in dict.fromkeys((self.wire.target.root, f"{parts.scheme}://{parts.netloc}")):
            for prefix in PREFIXES:
                try:
                    got = self.wire.get(f"{prefix}/version", root=root)
                except Failed:
                    continue
                if _is_refusal(got):
                    return root + prefix
        return ""

    def health(self) -> str:
        """The load balancer's own probe."""
        got = self.wire.get("/health")
        document = got.document()
        if got.status in (403, 404):
            raise Skipped(f"not routed from here ({got.status})")
        if got.status != 200 or document is None or "version" not in document:
            raise explain.response(got, "200 with the proxy's version")
        return f"version {document['version']}"

    def invented_key(self) -> str:
        """One failed attempt; many would make the proxy refuse this address for a minute."""
        got = self._detailed(credential(f"hk_test_{secrets.token_hex(16)}"))
        if got.status in (429, 503) and got.document() is not None:
            raise Skipped(f"the proxy answers {got.status}: {explain.excerpt(got)}")
        return expect_unauthenticated(got, "an invented key")

    def key(self) -> str:
        """As the SDK sends it."""
        got = self._detailed(self.wire.key)
        document = got.document() or {}
        if _is_health(got):
            self.detailed = document
            return "as Bearer, the SDK's way"
        is_outage = got.status == 503 and "error_code" in document
        raise explain.response(got, "detailed health", "auth-service-down" if is_outage else "")

    def form(self, form: str) -> str:
        """One of the other forms."""
        got = self._detailed(credential(self.wire.options.key, form))
        if _is_health(got):
            return "accepted"
        raise explain.response(
            got, "detailed health", "credential-lost" if got.status == 401 else ""
        )

    def _detailed(self, headers: dict[str, str]) -> explain.Response:
        return self.wire.get(f"{self.wire.target.prefix}/health/mlflow/detailed", headers)

    def _only_direct(self) -> None:
        if not self.wire.is_direct:
            raise Skipped("goes through the environment's proxy")


def _is_refusal(got: explain.Response) -> bool:
    document = got.document() or {}
    return got.status == 401 and {"error_code", "message", "request_id"} <= document.keys()


def _is_health(got: explain.Response) -> bool:
    return got.status in (200, 503) and "checks" in (got.document() or {})


def connect(options: Options) -> socket.socket:
    """A TCP connection to the deployment; raises Failed if there is none."""
    host, port = options.target.host, options.target.port
    try:
        return socket.create_connection((host, port), options.timeout)
    except OSError as error:
        raise explain.network(error, f"{host}:{port}", sent=False) from error


def encrypted(connection: socket.socket, options: Options) -> socket.socket:
    """The connection with TLS, for https; raises Failed if the handshake fails."""
    if not options.target.tls:
        return connection
    context = ssl.create_default_context(cafile=options.ca_file or certifi.where())
    try:
        return context.wrap_socket(connection, server_hostname=options.target.host)
    except OSError as error:
        raise explain.network(error, f"{options.target.host}:{options.target.port}") from error


def expiry(not_after: str) -> str:
    """How long a certificate is valid, from its notAfter ("Jun  1 12:00:00 2027 GMT")."""
    if not not_after:
        return "no expiry given"
    days = int((ssl.cert_time_to_seconds(not_after) - time.time()) / 86400)
    return f"certificate valid for {days} days{': renew it' if days < EXPIRY_WARNING else ''}"


def run(steps: Steps, connection: Connection) -> None:
    """The steps that need no key, in the order in which a request meets them."""
    steps.run("DNS knows the host", connection.dns)
    steps.run("TCP connection", connection.tcp, needs="DNS knows the host")
    steps.run("TLS handshake", connection.tls, needs="TCP connection")
    steps.run(REACHED, connection.prefix, needs="TLS handshake")
    steps.run("GET /health", connection.health, needs=REACHED)


def run_key(steps: Steps, connection: Connection) -> None:
    """An invented key is refused, the given one accepted in each of its four forms."""
    steps.run("an invented key is refused", connection.invented_key, needs=REACHED)
    steps.run(ACCEPTED, connection.key, needs=REACHED)
    for form in KEY_FORMS[1:]:
        steps.run(f"the key as {form}", partial(connection.form, form), needs=ACCEPTED)
