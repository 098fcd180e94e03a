"""The proxy's health: every path of it, and what it says of the parts behind the proxy."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from app.doctor import explain
from app.doctor.connection import REACHED
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import Wire, expect_unauthenticated
from app.health.faults import fault

ANSWERS = "the proxy's health answers"

#: The parts that have a check of their own: step, check, fault.
PARTS = (
    ("Redis", "redis", "redis-down"),
    ("auth service", "auth_service", "auth-service-down"),
    ("the instance's folders", "instance", "instance-folder"),
)
MLFLOW_CHECKS = ("connectivity", "experiments_api", "models_api", "artifacts_api")
MLFLOW_FAULTS = frozenset(
    """loop host-check mlflow-down mlflow-dns mlflow-slow mlflow-failing circuit-open not-mlflow
    proxy-refused artifacts-disabled""".split()
)

ABOUT_MLFLOW = (  # the last two are the older names
    "/api/health",
    "/api/health/mlflow",
    "/api/mlflow/health/mlflow",
    "/mlflow/health/mlflow",
)
HAMMERED = ("/health", "/api/health/mlflow")
CALLS = 20
SLOW = 1000.0  # milliseconds; a load balancer's probe usually gives up after 2,000 to 5,000

#: The types that each field of a check may have, and the word for them.
FIELDS: dict[str, tuple[Any, str]] = {
    "status": (str, "text"),
    "latency_ms": (int | float | None, "number"),
    "message": (str | None, "text"),
}

# What tells a stranger where things are inside. Host:port needs four digits, or times would match.
INTERNAL = re.compile(
    r"""(?:https?|rediss?|unix|redis\+\w+)://[^\s"'<>]+
      | \b[\w-]+(?:\.[\w-]+)*:\d{4,5}\b
      | \b(?:(?:10|127)\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}\b
      | \b[\w-]+(?:\.[\w-]+)*\.(?:local|internal)\b
    """,
    re.VERBOSE,
)


@dataclass
class Health:
    """The checks return what they saw in words. `document` is the health under the prefix that
    leads to the proxy; it is requested once."""

    wire: Wire
    document: dict[str, Any] = field(default_factory=dict)

    # --- the parts behind the proxy ----------------------------------------------------------

    def live(self) -> str:
        """The load balancer's own probe."""
        return f"version {read(self._routed('/health')).get('version')}"

    def ask(self) -> str:
        self.document = read(self.wire.send(f"{self.wire.target.prefix}/health/mlflow"))
        return str(self.document["status"])

    def part(self, name: str, key: str) -> str:
        """A part that has a check of its own; `key` is its fault."""
        if name not in self.document.get("checks", {}):
            raise Skipped("not in the health response")
        if bad := bad_checks(self.document, name):
            raise Failed.of(key, f"The proxy's health says: {bad}.")
        return "well, says the proxy"

    def mlflow(self, found: Sequence[str]) -> str:
        """MLflow's checks; `found` are the codes of the faults that are known by now."""
        bad = bad_checks(self.document, *MLFLOW_CHECKS, "circuit")
        if not bad:
            return "well, says the proxy"
        if known := [code for code in found if code in MLFLOW_FAULTS]:
            raise Skipped(f"explained by: {', '.join(known)}")
        key = "mlflow-down" if bad_checks(self.document, "connectivity") else "mlflow-failing"
        if not bad_checks(self.document, *MLFLOW_CHECKS):
            key = "circuit-open"
        raise Failed.of(key, f"The proxy's health says: {bad}.")

    def ready(self, found: Sequence[str]) -> str:
        """Whether an orchestrator would send requests here."""
        got = self._routed("/ready")
        if got.status == 200:
            return "takes requests"
        known = [code for code in found if code in MLFLOW_FAULTS or code.startswith("auth-")]
        if got.status == 503 and known:
            raise Skipped(f"explained by: {', '.join(known)}")
        if got.status == 503 and (missing := bad_checks(got.document() or {})):
            key = "draining" if "draining" in missing else "unavailable"
            raise Failed.of(key, f"Not ready: {missing}.", got.request_id)
        raise explain.response(got, "200")

    # --- the paths ---------------------------------------------------------------------------

    def public(self, path: str) -> str:
        """Without a key: a good result, the agreed form, and no internal address."""
        got = self.wire.send(path)
        result = judge(got, MLFLOW_CHECKS if path in ABOUT_MLFLOW else ())
        said = "\n".join((got.text, *got.headers.values()))
        if leaked := internal_addresses(said, self.wire.target.root):
            raise _wrong("health leaks", got, f", addresses: {', '.join(leaked)}")
        return result

    def closed(self, path: str) -> str:
        """Without a key: refused."""
        return expect_unauthenticated(self.wire.send(path), "no key")

    def detailed(self, path: str) -> str:
        """With a key: the agreed form, and something that the public path does not say."""
        got = self.wire.send(path, headers=self.wire.key)
        result = judge(got, MLFLOW_CHECKS)
        more = set(got.document() or {}) - {"status", "version", "checks"}
        if not more and not internal_addresses(got.text, self.wire.target.root):
            raise _wrong("health poor", got)
        return result

    def hammered(self, path: str) -> str:
        """Many calls in a row: each quick, all with one result, whatever the times in it."""
        calls = [self.wire.send(path) for _ in range(CALLS)]
        results = {(str(read(got)["status"]), bad_checks(read(got))) for got in calls}
        if len(results) > 1:
            seen = ", ".join(sorted(status for status, _ in results))
            evidence = (
                f"{CALLS} quick calls of {path} gave {len(results)} different results: {seen}."
            )
            raise Failed.of("health flaps", evidence, calls[-1].request_id)
        slowest = max(calls, key=lambda got: got.ms)
        if slowest.ms > SLOW:
            raise _wrong("health slow", slowest, f" after {slowest.ms:.0f} ms")
        median = statistics.median(got.ms for got in calls)
        return f"median {median:.1f} ms, slowest {slowest.ms:.1f} ms"

    def metrics(self) -> str:
        """Prometheus text, where it can be reached: in production it should not be."""
        got = self._routed("/metrics")
        families = sum(line.startswith("# TYPE ") for line in got.text.splitlines())
        if got.status != 200 or not families:
            raise explain.response(got, "200 with Prometheus text, or 404")
        return f"{families} metrics"

    def _routed(self, path: str) -> explain.Response:
        """The response; raises Skipped where a load balancer does not route the path."""
        got = self.wire.send(path)
        if got.status in (403, 404):
            raise Skipped(f"not routed from here ({got.status})")
        return got


def _wrong(key: str, got: explain.Response, seen: str = "") -> Failed:
    return Failed.of(key, f"{got.seen}{seen}.", got.request_id)


def read(got: explain.Response) -> dict[str, Any]:
    """The health document; raises Failed if it is none, or if it contradicts the status."""
    document = got.document()
    if got.status not in (200, 503) or document is None or "status" not in document:
        raise explain.response(got, "200 or 503 with health in JSON")
    if (got.status == 503) != (document["status"] == "unhealthy"):
        raise _wrong("health contradicts", got, f" but says {document['status']}")
    return document


def judge(got: explain.Response, required: tuple[str, ...]) -> str:
    """The result in words; raises Failed for unhealthy, for a form that is not the agreed one,
    and where one of the `required` checks is missing."""
    document = read(got)
    bad = bad_checks(document)
    result = f"{document['status']}{': ' if bad else ''}{bad}"
    if document["status"] == "unhealthy":
        remedy = fault("unavailable").remedy
        raise Failed(f"GET {got.path} says {result}.", remedy, got.request_id)
    if wrong := complaints(document, required):
        raise _wrong("health form", got, f": {'; '.join(wrong)}")
    return result


def complaints(document: dict[str, Any], required: Iterable[str] = ()) -> list[str]:
    """Where a health response is not of the agreed form; empty if it is. `required`: names that
    `checks` must hold."""
    words = ("healthy", "degraded", "unhealthy")
    found = [] if document.get("status") in words else ["status is none of the three words"]
    found += [] if isinstance(document.get("version"), str) else ["version is no text"]
    checks = document.get("checks", {})
    if not isinstance(checks, dict):
        return [*found, "checks is no object"]
    found += [f"checks lacks {name}" for name in required if name not in checks]
    for name, check in checks.items():
        found += [
            f"checks.{name}: {field} is no {word}"
            for field, (types, word) in FIELDS.items()
            if not (isinstance(check, dict) and isinstance(check.get(field), types))
        ]
    return found


def bad_checks(document: dict[str, Any], *names: str) -> str:
    """What is not well of these checks, or of all, with its messages, as one line; "" if all is.
    /ready lists `missing`."""
    messages: dict[str, list[str]] = {}  # names by message: one cause often fails several checks
    for name, check in (document.get("checks") or {}).items():
        is_bad = isinstance(check, dict) and check.get("status") != "healthy"
        if is_bad and (not names or name in names):
            message = str(check.get("message") or check.get("status")).rstrip(".")
            messages.setdefault(message, []).append(name)
    found = [str(part).rstrip(".") for part in document.get("missing") or []]
    found += [f"{', '.join(checks)}: {message}" for message, checks in messages.items()]
    return "; ".join(found)


def internal_addresses(text: str, root: str) -> list[str]:
    """Addresses in a text that only an insider should know. `root` is the deployment's own, such as
    "https://host:8443"; that is no secret."""
    netloc = urlsplit(root).netloc
    own = {netloc, netloc.rpartition(":")[0]}
    hits = set(INTERNAL.findall(text))
    return sorted(hit for hit in hits if hit not in own and not hit.startswith(root))


def run(steps: Steps, health: Health) -> None:
    """What the public health says of the parts that MLflow does not need."""
    steps.run("GET /health", health.live, needs=REACHED)
    steps.run(ANSWERS, health.ask, needs=REACHED)
    for step, name, key in PARTS:
        steps.run(step, partial(health.part, name, key), needs=ANSWERS)


def run_last(steps: Steps, health: Health) -> None:
    """What health says of MLflow, unless the checks of MLflow through the proxy explain it."""
    steps.run("MLflow, by the proxy's health", lambda: health.mlflow(list(steps.faults)), ANSWERS)
    steps.run("GET /ready", lambda: health.ready(list(steps.faults)), needs=REACHED)


def run_paths(steps: Steps, health: Health) -> None:
    """All paths, the plainest first; where that is silent the others are not asked."""
    first = "GET /health"
    steps.run(first, partial(health.public, "/health"))
    for path in ("/ready", *ABOUT_MLFLOW):
        steps.run(f"GET {path}", partial(health.public, path), needs=first)
    for path in (f"{path}/detailed" for path in ABOUT_MLFLOW[1:]):
        steps.run(f"no key: {path}", partial(health.closed, path), needs=first)
        steps.run(f"with key: {path}", partial(health.detailed, path), needs=first)
    for path in HAMMERED:
        name = f"{CALLS} quick calls: {path}"
        steps.run(name, partial(health.hammered, path), needs=f"GET {path}")
    steps.run("GET /metrics", health.metrics, needs=first)
