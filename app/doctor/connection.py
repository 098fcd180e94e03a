"""The connection check: from DNS up to MLflow, in the order in which a request meets them."""

import re
import secrets
import socket
import ssl
import time
from dataclasses import dataclass
from functools import partial

import certifi

from app.doctor import explain
from app.doctor.command_line import Options
from app.doctor.health_shape import bad_checks
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import KEY_FORMS, Wire, credential, expect, expect_unauthenticated

VERSION_DEADLINE = 3.0  # seconds the SDK gives GET /version before it stops exporting spans
SLOW_TRIES = 3  # a machine that is busy for a moment is not slow
EXPIRY_WARNING = 14  # days


@dataclass(frozen=True)
class Connection:
    """The checks, from the wire upwards; each returns what it saw."""

    wire: Wire
    options: Options

    def dns(self) -> str:
        self._only_direct()
        host, port = self.options.target.host, self.options.target.port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise explain.network(error, host) from error
        return ", ".join(sorted({str(row[4][0]) for row in found}))

    def tcp(self) -> str:
        self._only_direct()
        with self._connect() as connection:
            address = connection.getpeername()
        return f"{address[0]} port {address[1]}"

    def tls(self) -> str:
        self._only_direct()
        if not self.options.target.tls:
            raise Skipped("plain http: keys travel unencrypted, for local use only")
        context = ssl.create_default_context(cafile=self.options.ca_file or certifi.where())
        host = self.options.target.host
        try:
            with self._connect() as plain, context.wrap_socket(plain, server_hostname=host) as tls:
                certificate = tls.getpeercert() or {}
                return f"{tls.version()}, {expiry(str(certificate.get('notAfter', '')))}"
        except OSError as error:
            raise explain.network(error, f"{host}:{self.options.target.port}") from error

    def health(self) -> str:
        document = expect(self.wire.get("/health"))
        return f"{document.get('status')}, version {document.get('version', '?')}"

    def ready(self) -> str:
        got = self.wire.get("/ready")
        if got.status == 503 and (missing := bad_checks(got.document() or {})):
            raise Failed(f"Not ready: {missing}.", explain.REMEDIES[503], got.request_id)
        expect(got)
        return "takes requests"

    def no_key(self) -> str:
        return expect_unauthenticated(self._version({}), "no key")

    def bad_key(self) -> str:
        invented = credential(f"hk_test_{secrets.token_hex(16)}")
        return expect_unauthenticated(self._version(invented), "an invented key")

    def key_as(self, form: str) -> str:
        got = self._version(credential(self.options.key, form))
        _version_in(got)
        return "accepted"

    def version(self) -> str:
        for _ in range(SLOW_TRIES):
            got = self._version(credential(self.options.key))
            found = _version_in(got)
            if got.ms <= VERSION_DEADLINE * 1000:
                return f"MLflow {found}"
        raise Failed(
            f"GET /version took {got.ms:.0f} ms; the SDK waits {VERSION_DEADLINE:g} s.",
            "Traces will silently not be exported: look at MLflow's load.",
            got.request_id,
            "mlflow-slow",
        )

    def search(self) -> str:
        got = self._search({"max_results": 1})
        if got.status == 400 and "Invalid value 0" in got.text:  # what it takes no body for
            raise _body_lost(got)
        found = expect(got).get("experiments", [])
        return f"{len(found)} experiment seen" if found else "none yet, or none for this key"

    def refusal(self) -> str:
        """MLflow refuses a page of ten million rows, if it sees the request's body at all."""
        got = self._search({"max_results": 10_000_000})
        code = (got.document() or {}).get("error_code")
        if got.status == 200:
            raise _body_lost(got)
        if got.status != 400 or code != "INVALID_PARAMETER_VALUE":
            raise explain.answer(got, "MLflow's own 400 INVALID_PARAMETER_VALUE")
        return "400 in MLflow's own words"

    def request_id(self) -> str:
        got = self._version(credential(self.options.key))
        echoed = got.headers.get("X-Request-ID", "")
        if echoed != got.sent_id:
            raise Failed(
                f"X-Request-ID {got.sent_id} came back as {echoed or 'nothing'}.",
                "Without it a user's report is not found in the log: a hop in front of the proxy "
                "changes the header, or the proxy is not what answers.",
                echoed,
                "request-id-lost",
            )
        return f"X-Request-ID {echoed}"

    def _version(self, headers: dict[str, str]) -> explain.Answer:
        return self.wire.get(f"{self.options.target.prefix}/version", headers)

    def _search(self, body: dict[str, int]) -> explain.Answer:
        path = f"{self.options.target.prefix}/api/2.0/mlflow/experiments/search"
        return self.wire.send("POST", path, credential(self.options.key), json=body)

    def _connect(self) -> socket.socket:
        host, port = self.options.target.host, self.options.target.port
        try:
            return socket.create_connection((host, port), self.options.timeout)
        except OSError as error:
            raise explain.network(error, f"{host}:{port}") from error

    def _only_direct(self) -> None:
        if not self.wire.is_direct:
            raise Skipped("goes through the environment's proxy")


def _version_in(got: explain.Answer) -> str:
    """MLflow's version in an answer; raises Failed if there is none."""
    found = got.text.strip()
    if got.status != 200 or not re.fullmatch(r"\d+\.\d+\S*", found):
        raise explain.answer(got, "200 with MLflow's version")
    return found


def _body_lost(got: explain.Answer) -> Failed:
    return Failed(
        "MLflow did not see the request's body: it answered as if there were none.",
        "A hop forwards bodies without Content-Length, which MLflow drops: look for one that "
        "buffers or speaks HTTP/1.0.",
        got.request_id,
        "bodies-lost",
    )


def expiry(not_after: str) -> str:
    """How long a certificate is still good, from its notAfter ("Jun  1 12:00:00 2027 GMT")."""
    if not not_after:
        return "no expiry given"
    days = int((ssl.cert_time_to_seconds(not_after) - time.time()) / 86400)
    return f"certificate good for {days} days{' only: renew it' if days < EXPIRY_WARNING else ''}"


def run(steps: Steps, checks: Connection) -> None:
    """All steps in that order."""
    steps.run("DNS knows the host", checks.dns)
    steps.run("TCP connection", checks.tcp, needs="DNS knows the host")
    steps.run("TLS handshake", checks.tls, needs="TCP connection")
    steps.run("GET /health", checks.health, needs="TLS handshake")
    steps.run("GET /ready", checks.ready, needs="TLS handshake")
    steps.run("no key is refused", checks.no_key, needs="TLS handshake")
    steps.run("a bad key is refused", checks.bad_key, needs="TLS handshake")
    for form in KEY_FORMS:
        steps.run(f"the key as {form}", partial(checks.key_as, form), needs="TLS handshake")
    steps.run("GET /version", checks.version, needs="the key as Bearer")
    steps.run("experiments/search", checks.search, needs="the key as Bearer")
    steps.run("MLflow's own errors come through", checks.refusal, needs="experiments/search")
    steps.run("the request id comes back", checks.request_id, needs="the key as Bearer")
