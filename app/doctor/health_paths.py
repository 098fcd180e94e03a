"""Every health path: what it says, what it must not say, and how fast."""

import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from app.doctor import explain
from app.doctor.parts import MLFLOW_CHECKS, bad_checks
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import Wire, credential, expect_unauthenticated

OWN = ("/health", "/ready")  # of the proxy itself
ABOUT_MLFLOW = (  # the last two are the older names
    "/api/health",
    "/api/health/mlflow",
    "/api/mlflow/health/mlflow",
    "/mlflow/health/mlflow",
)
DETAILED = tuple(f"{path}/detailed" for path in ABOUT_MLFLOW[1:])
HAMMERED = ("/health", "/api/health/mlflow")
CALLS = 20
SLOW = 1000.0  # milliseconds; a load balancer's probe usually gives up after 2,000 to 5,000

STATUSES = ("healthy", "degraded", "unhealthy")

# What tells a stranger where things are inside. Host:port needs four digits, or times would match.
INTERNAL = re.compile(
    r"""(?:https?|rediss?|unix|redis\+\w+)://[^\s"'<>]+
      | \b[\w-]+(?:\.[\w-]+)*:\d{4,5}\b
      | \b(?:(?:10|127)\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}\b
      | \b[\w-]+(?:\.[\w-]+)*\.(?:local|internal)\b
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Health:
    """The checks of one path each; they return the result in words."""

    wire: Wire

    def public(self, path: str) -> str:
        """Without a key: a good result, the agreed form, and no internal address."""
        got = self.wire.get(path)
        result = judge(got, MLFLOW_CHECKS if path in ABOUT_MLFLOW else ())
        headers = "\n".join(got.headers.values())
        if leaked := internal_addresses(f"{got.text}\n{headers}", self.wire.target.root):
            raise Failed(
                f"GET {path} tells anybody internal addresses: {', '.join(leaked)}.",
                "Only the detailed health answers may name them.",
                got.request_id,
            )
        return result

    def closed(self, path: str) -> str:
        """Without a key: refused."""
        return expect_unauthenticated(self.wire.get(path), "no key")

    def detailed(self, path: str) -> str:
        """With a key: the agreed form, and something that the public path does not say."""
        got = self.wire.get(path, credential(self.wire.options.key))
        result = judge(got, MLFLOW_CHECKS)
        more = set(got.document() or {}) - {"status", "version", "checks"}
        if not more and not internal_addresses(got.text, self.wire.target.root):
            raise Failed(
                f"GET {path} says no more than the public answer.",
                "It should name internal addresses and settings for whoever debugs.",
                got.request_id,
            )
        return result

    def hammered(self, path: str) -> str:
        """Many calls in a row: each quick, all with one result."""
        calls = [self.wire.get(path) for _ in range(CALLS)]
        results = {(got.status, *result(read(got))) for got in calls}
        if len(results) > 1:
            seen = ", ".join(sorted(f"{status} {word}" for status, word, _ in results))
            raise Failed(
                f"{CALLS} quick calls of {path} gave {len(results)} different results: {seen}.",
                "Something comes and goes: watch the detailed answer, and the proxy's log. With "
                "several instances, ask each by its own address.",
                calls[-1].request_id,
            )
        slowest = max(calls, key=lambda got: got.ms)
        if slowest.ms > SLOW:
            raise Failed(
                f"One of {CALLS} calls of {path} took {slowest.ms:.0f} ms.",
                "Load balancers take a slow probe for a dead target: look at the proxy's load, "
                "or at the distance from here.",
                slowest.request_id,
            )
        median = statistics.median(got.ms for got in calls)
        return f"median {median:.1f} ms, slowest {slowest.ms:.1f} ms"

    def metrics(self) -> str:
        """Prometheus text, where it can be reached: a load balancer should not route it."""
        got = self.wire.get("/metrics")
        if got.status in (401, 403, 404):
            raise Skipped(f"not reachable from here ({got.status}), as it should be in production")
        families = sum(line.startswith("# TYPE ") for line in got.text.splitlines())
        if got.status != 200 or not families:
            raise explain.response(got, "200 with Prometheus text, or 404")
        return f"{families} metrics"


def read(got: explain.Response) -> dict[str, Any]:
    """The health document; raises Failed if it is none, or if it contradicts the status."""
    document = got.document()
    if got.status not in (200, 503) or document is None or "status" not in document:
        raise explain.response(got, "200 or 503 with health in JSON")
    if (got.status == 503) != (document["status"] == "unhealthy"):
        raise Failed(
            f"GET {got.path} answered {got.status} but says {document['status']}.",
            "Load balancers see only the number: unhealthy goes with 503, all else with 200.",
            got.request_id,
        )
    return document


def judge(got: explain.Response, required: tuple[str, ...]) -> str:
    """The result in words; raises Failed for unhealthy, for a form that is not the agreed one,
    and where one of the `required` checks is missing."""
    document = read(got)
    bad = bad_checks(document)
    result = f"{document['status']}{': ' if bad else ''}{bad}"
    if document["status"] == "unhealthy":
        remedy = explain.fault_of_status(503).remedy
        raise Failed(f"GET {got.path} says {result}.", remedy, got.request_id)
    if wrong := complaints(document, required):
        raise Failed(
            f"GET {got.path}: {'; '.join(wrong)}.",
            "The answer is not of the form that monitors rely on: is this the proxy's version?",
            got.request_id,
        )
    return result


def complaints(document: dict[str, Any], required: Iterable[str] = ()) -> list[str]:
    """Where a health response is not of the agreed form; empty if it is.

    Args:
        required: names that `checks` must hold.
    """
    found = [] if document.get("status") in STATUSES else ["status is none of the three words"]
    found += [] if isinstance(document.get("version"), str) else ["version is no text"]
    checks = document.get("checks", {})
    if not isinstance(checks, dict):
        return [*found, "checks is no object"]
    found += [f"checks lacks {name}" for name in required if name not in checks]
    for name, check in checks.items():
        found += [f"checks.{name}: {complaint}" for complaint in _about(check)]
    return found


def _about(check: Any) -> list[str]:
    if not isinstance(check, dict):
        return ["no object"]
    found = [] if isinstance(check.get("status"), str) else ["status is no text"]
    latency = check.get("latency_ms", 0)
    if isinstance(latency, bool) or not isinstance(latency, int | float | None):
        found.append("latency_ms is no number")
    if not isinstance(check.get("message"), str | None):
        found.append("message is no text")
    return found


def result(document: dict[str, Any]) -> tuple[str, str]:
    """What must not change from one quick call to the next: statuses and messages, no times."""
    return str(document.get("status")), bad_checks(document)


def internal_addresses(text: str, root: str) -> list[str]:
    """Addresses in a text that only an insider should know.

    Args:
        root: the deployment's own address, such as "https://host:8443"; that is no secret.
    """
    netloc = urlsplit(root).netloc
    own = {netloc, netloc.rpartition(":")[0]}
    hits = set(INTERNAL.findall(text))
    return sorted(hit for hit in hits if hit not in own and not hit.startswith(root))


def run(steps: Steps, health: Health) -> None:
    """All paths, the plainest first; where that is silent the others are not asked."""
    first = f"GET {OWN[0]}"
    steps.run(first, partial(health.public, OWN[0]))
    for path in (*OWN[1:], *ABOUT_MLFLOW):
        steps.run(f"GET {path}", partial(health.public, path), needs=first)
    for path in DETAILED:
        steps.run(f"no key: {path}", partial(health.closed, path), needs=first)
        steps.run(f"with key: {path}", partial(health.detailed, path), needs=first)
    for path in HAMMERED:
        name = f"{CALLS} quick calls: {path}"
        steps.run(name, partial(health.hammered, path), needs=f"GET {path}")
    steps.run("GET /metrics", health.metrics, needs=first)
