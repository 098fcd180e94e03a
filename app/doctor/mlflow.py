"""Behind the proxy: whether it is MLflow, and whether it sees what the proxy sends."""

import re
from dataclasses import dataclass
from typing import Any

from app.doctor import explain
from app.doctor.connection import ACCEPTED
from app.doctor.health import Health, bad_checks
from app.doctor.steps import Failed, Steps
from app.doctor.wire import Wire, expect
from app.health.faults import fault

#: What the next stages need.
IS_MLFLOW = "MLflow answers behind the proxy"
READS = "the key may read"
SERVED = "artifacts are served"

SEARCH = "/api/2.0/mlflow/experiments/search"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"

#: MLflow refuses a page of so many rows, if it sees the request's body at all.
TOO_MANY = {"max_results": 10_000_000}
TOO_MANY_CODE = "INVALID_PARAMETER_VALUE"

VERSION_DEADLINE = 3.0  # seconds the SDK gives GET /version before it stops exporting spans
SLOW_TRIES = 3  # a machine that is busy for a moment is not slow


@dataclass(frozen=True)
class MLflow:
    """The checks that need an accepted key."""

    wire: Wire
    health: Health

    def is_there(self) -> str:
        """MLflow's /health is the word OK."""
        got = self.wire.mlflow("/health")
        if got.status == 200 and got.text.strip() == "OK":
            return "OK"
        raise explain.response(got, "MLflow's OK", self._fault_of(got))

    def _fault_of(self, got: explain.Response) -> str:
        """The proxy's health tells more than the response."""
        said = bad_checks(self.health.document, "connectivity")
        if _is_proxy(got) or (got.status >= 500 and fault("mlflow.loop").message in said):
            return "mlflow.loop"
        if got.status in (502, 503) and "DNS" in said:
            return "mlflow-dns"
        if got.status == 503 and got.document() is not None:
            return "mlflow-down" if said else "circuit-open"
        return "not-mlflow" if got.status in (200, 404) else ""

    def reads(self) -> str:
        """A GET that passes MLflow's host check, which exempts /health and /version."""
        found = expect(self.wire.mlflow(f"{SEARCH}?max_results=1"))
        seen = len(found.get("experiments", []))
        return f"{seen} experiment seen" if seen else "none yet, or none for this key"

    def serves_artifacts(self) -> str:
        """Clients reach the artifact store through MLflow, and MLflow through the proxy."""
        got = self.wire.mlflow(f"{ARTIFACTS}?path=hokusai-doctor")
        if got.status in (501, 503) and "serve-artifacts" in got.text:
            raise explain.response(got, "200", "mlflow.no artifacts")
        expect(got)
        return "by MLflow"

    def version(self) -> str:
        for _ in range(SLOW_TRIES):
            got = self.wire.mlflow("/version")
            found = got.text.strip()
            if got.status != 200 or not re.fullmatch(r"\d+\.\d+\S*", found):
                raise explain.response(got, "200 with MLflow's version")
            if got.ms <= VERSION_DEADLINE * 1000:
                return f"MLflow {found}"
        evidence = (
            f"GET /version took {got.ms:.0f} ms. The SDK waits {VERSION_DEADLINE:g} s, then it "
            "exports no traces and does not say so."
        )
        raise Failed.of("mlflow-slow", evidence, got.request_id)

    def refusal(self) -> str:
        """MLflow's own error arrives, and MLflow has seen the request's body."""
        got = self.wire.mlflow(SEARCH, "POST", json=TOO_MANY)
        if is_refused(got):
            return "400 in MLflow's own words"
        is_lost = got.status == 200 or (got.status == 400 and "Invalid value 0" in got.text)
        raise explain.response(got, f"400 {TOO_MANY_CODE}", "bodies-lost" if is_lost else "")

    def request_id(self) -> str:
        got = self.wire.mlflow("/version")
        echoed = got.headers.get("X-Request-ID", "")
        if echoed != got.sent_id:
            evidence = f"{got.sent_id} came back as {echoed or 'nothing'}."
            raise Failed.of("request-id-lost", evidence, echoed)
        return f"X-Request-ID {echoed}"


def is_refused(got: explain.Response) -> bool:
    """Whether MLflow has seen the body TOO_MANY. Its answer to an empty one has the same code."""
    document: dict[str, Any] = got.document() or {}
    is_lost = "Invalid value 0" in got.text
    return got.status == 400 and document.get("error_code") == TOO_MANY_CODE and not is_lost


def _is_proxy(got: explain.Response) -> bool:
    """Whether a proxy answered in MLflow's place: with 508 (Loop Detected, RFC 5842 section 7.2),
    its health in JSON, or an error with a request id. The key was accepted just now, so a 401 or
    404 with one is another proxy's."""
    document = got.document() or {}
    is_health = got.status == 200 and {"status", "version"} <= document.keys()
    return got.status == 508 or is_health or (got.status in (401, 404) and "request_id" in document)


def run(steps: Steps, mlflow: MLflow) -> None:
    """From "is it there" to "does it see every body"."""
    for name, check, needs in (
        (IS_MLFLOW, mlflow.is_there, ACCEPTED),
        (READS, mlflow.reads, IS_MLFLOW),
        (SERVED, mlflow.serves_artifacts, READS),
        ("GET /version", mlflow.version, IS_MLFLOW),
        ("MLflow sees bodies, we its errors", mlflow.refusal, READS),
        ("the request id comes back", mlflow.request_id, IS_MLFLOW),
    ):
        steps.run(name, check, needs)
