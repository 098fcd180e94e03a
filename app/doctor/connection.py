"""The connection to the proxy: DNS, TCP, TLS, the prefix at which it answers, and the key."""

import secrets
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from urllib.parse import urlsplit

import certifi

from app.doctor import explain
from app.doctor.command_line import PREFIXES
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import KEY_FORMS, Wire, credential, expect_unauthenticated

#: What the next stages need.
REACHED = "the prefix leads to the proxy"
ACCEPTED = "the key is accepted"

EXPIRY_WARNING = 14  # days


@dataclass(frozen=True)
class Connection:
    """Each check returns what it saw."""

    wire: Wire

    def dns(self) -> str:
        host, port = self.wire.address()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise explain.network(error, host) from error
        return ", ".join(sorted({str(row[4][0]) for row in found}))

    def tcp(self) -> str:
        with self._connect() as connection:
            address = connection.getpeername()
        return f"{address[0]} port {address[1]}"

    def tls(self) -> str:
        if self.wire.target.root.startswith("http:"):
            raise Skipped("plain http: keys travel unencrypted, for local use only")
        host, port = self.wire.address()
        context = ssl.create_default_context(cafile=self.wire.options.ca_file or certifi.where())
        with self._connect() as plain:
            try:
                with context.wrap_socket(plain, server_hostname=host) as tls:
                    version, certificate = tls.version(), tls.getpeercert() or {}
            except OSError as error:
                raise explain.network(error, f"{host}:{port}") from error
        return f"{version}, {expiry(str(certificate.get('notAfter', '')))}"

    def _connect(self) -> socket.socket:
        host, port = self.wire.address()
        try:
            return socket.create_connection((host, port), self.wire.options.timeout)
        except OSError as error:
            raise explain.network(error, f"{host}:{port}", sent=False) from error

    def prefix(self) -> str:
        """Without a key, the proxy refuses with its own error; nothing else answers like that."""
        got = self.wire.send(f"{self.wire.target.prefix}/version")
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
        root = self.wire.target.root
        for base, prefix in product(dict.fromkeys((root, origin(root))), PREFIXES):
            with suppress(Failed):
                if _is_refusal(self.wire.send(f"{prefix}/version", root=base)):
                    return base + prefix
        return ""

    def invented_key(self) -> str:
        """One failed attempt; many would make the proxy refuse this address for a minute."""
        got = self._detailed(credential(f"hk_test_{secrets.token_hex(16)}"))
        if got.status in (429, 503) and got.document() is not None:
            raise Skipped(f"the proxy answers {got.status}: {explain.excerpt(got)}")
        return expect_unauthenticated(got, "an invented key")

    def key(self, form: str) -> str:
        """Any valid key opens the detailed health, and MLflow may be down."""
        got = self._detailed(credential(self.wire.options.key, form))
        document = got.document() or {}
        if got.status in (200, 503) and "checks" in document:
            return f"as {form}"
        fault = ""
        if got.status == 401 and form != KEY_FORMS[0]:
            fault = "credential-lost"
        elif got.status == 503 and "error_code" in document:
            fault = "auth-service-down"
        raise explain.response(got, "detailed health", fault)

    def _detailed(self, headers: dict[str, str]) -> explain.Response:
        return self.wire.send(f"{self.wire.target.prefix}/health/mlflow/detailed", headers=headers)


def _is_refusal(got: explain.Response) -> bool:
    document = got.document() or {}
    return got.status == 401 and {"error_code", "message", "request_id"} <= document.keys()


def origin(root: str) -> str:
    """The scheme and host of an address, as browsers send it."""
    parts = urlsplit(root)
    return f"{parts.scheme}://{parts.netloc}"


def expiry(not_after: str) -> str:
    """How long a certificate is valid, from its notAfter ("Jun  1 12:00:00 2027 GMT")."""
    if not not_after:
        return "no expiry given"
    days = int((ssl.cert_time_to_seconds(not_after) - time.time()) / 86400)
    return f"certificate valid for {days} days{': renew it' if days < EXPIRY_WARNING else ''}"


def run(steps: Steps, connection: Connection) -> None:
    """The steps in the order in which a request meets them. The SDK sends the first form of a
    key."""
    steps.run("DNS knows the host", connection.dns)
    steps.run("TCP connection", connection.tcp, needs="DNS knows the host")
    steps.run("TLS handshake", connection.tls, needs="TCP connection")
    steps.run(REACHED, connection.prefix, needs="TLS handshake")
    steps.run("an invented key is refused", connection.invented_key, needs=REACHED)
    steps.run(ACCEPTED, partial(connection.key, KEY_FORMS[0]), needs=REACHED)
    for form in KEY_FORMS[1:]:
        steps.run(f"the key as {form}", partial(connection.key, form), needs=ACCEPTED)
