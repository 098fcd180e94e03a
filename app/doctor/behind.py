"""Behind the door: is it MLflow, and does it take what the proxy sends it?"""

import re
from dataclasses import dataclass

from app.doctor import explain
from app.doctor.connection import Connection
from app.doctor.door import ACCEPTED, Door
from app.doctor.parts import Parts
from app.doctor.steps import Failed, Steps
from app.doctor.wire import Wire, credential, expect

#: What the next stages need.
IS_MLFLOW = "MLflow answers behind the proxy"
READS = "the key may read"
SERVED = "artifacts are served"

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"

LOOP_REMEDY = (
    "MLFLOW_SERVER_URL leads back to the proxy: it must be MLflow's own internal address, such as "
    "http://mlflow.example.internal:5000."
)

#: Words for a loop, should a proxy notice it by itself; only a hint, beside what is seen here.
_SAYS_LOOP = re.compile(r"\bloop|points? back|\bitself\b", re.IGNORECASE)


@dataclass
class Behind:
    """The checks that need a key that is let in."""

    wire: Wire
    parts: Parts
    door: Door

    def is_mlflow(self) -> str:
        """MLflow's /health is the word OK. The proxy's own is JSON with its version, and what it
        says to a request that has no key any more, or to a path without prefix, is JSON with a
        request id: none of these can come from MLflow."""
        path = f"{self.wire.target.prefix}/health"
        got = self.wire.get(path, credential(self.wire.options.key))
        if self._is_our_own(got):
            raise Failed(
                f"GET {path}, which is MLflow's, was answered by the proxy itself.",
                LOOP_REMEDY,
                got.request_id,
                "loop",
            )
        if got.status == 200 and got.text.strip() == "OK":
            return "OK"
        raise self._explained(got)

    def _is_our_own(self, got: explain.Answer) -> bool:
        document = got.document() or {}
        if got.status == 508:  # Loop Detected, RFC 5842 section 7.2
            return True
        if "request_id" in document:
            # The key was let in just now: whoever refuses it here is another one, behind.
            refused = got.status in (401, 404)
            return refused or (got.status >= 500 and bool(_SAYS_LOOP.search(got.text)))
        return got.status == 200 and {"status", "version"} <= document.keys()

    def _explained(self, got: explain.Answer) -> Failed:
        failed = explain.answer(got, "MLflow's OK")
        if got.status >= 500 and _SAYS_LOOP.search(self.parts.bad("connectivity")):
            failed.fault, failed.remedy = "loop", LOOP_REMEDY
            return failed
        names = (self.door.detailed.get("internal") or {}).get("mlflow_addresses")
        if got.status in (502, 503) and isinstance(names, str):  # a list where DNS has an answer
            failed.message += f" {names}."
            failed.fault = "mlflow-dns"
            failed.remedy = "Check the name in MLFLOW_SERVER_URL, and its Cloud Map service."
        elif got.status == 503 and got.document() is not None:
            down = self.parts.bad("connectivity")
            failed.fault = "mlflow-down" if down else "circuit-open"
        elif got.status == 200:
            failed.fault = "not-mlflow"
            failed.remedy = "MLFLOW_SERVER_URL names something else: is its port MLflow's?"
        elif got.status == 404:
            failed.fault = "not-mlflow"
            failed.remedy = (
                "MLFLOW_SERVER_URL names something else, or MLflow runs with --static-prefix: "
                "start it without."
            )
        return failed

    def reads(self) -> str:
        """A GET that passes MLflow's host check, which spares /health and /version."""
        path = f"{self.wire.target.prefix}/api/2.0/mlflow/experiments/search?max_results=1"
        found = expect(self.wire.get(path, credential(self.wire.options.key)))
        seen = len(found.get("experiments", []))
        return f"{seen} experiment seen" if seen else "none yet, or none for this key"

    def serves_artifacts(self) -> str:
        """Clients reach the store through MLflow, and that through the proxy only."""
        path = f"{self.wire.target.prefix}{ARTIFACTS}?path=hokusai-doctor"
        got = self.wire.get(path, credential(self.wire.options.key))
        if got.status in (501, 503) and "serve-artifacts" in got.text:
            raise Failed(
                f"MLflow does not serve artifacts: {explain.excerpt(got)}",
                "Start MLflow with --serve-artifacts and --artifacts-destination: clients reach "
                "the store through the proxy only.",
                got.request_id,
                "artifacts-disabled",
            )
        expect(got)
        return "by MLflow"


def run(steps: Steps, behind: Behind, connection: Connection) -> None:
    """From "is it there" to "does it hear every word"."""
    steps.run(IS_MLFLOW, behind.is_mlflow, needs=ACCEPTED)
    steps.run(READS, behind.reads, needs=IS_MLFLOW)
    steps.run(SERVED, behind.serves_artifacts, needs=READS)
    steps.run("GET /version", connection.version, needs=IS_MLFLOW)
    steps.run("MLflow sees bodies, we its errors", connection.refusal, needs=READS)
    steps.run("the request id comes back", connection.request_id, needs=IS_MLFLOW)
