"""Metrics for CloudWatch: the embedded metric format, one JSON object per log line.

CloudWatch Logs turns such lines into metrics; the proxy never calls AWS. Every METRICS_EMF_INTERVAL
they are computed from this worker's Prometheus counts, at no cost to a request. Each worker writes
one line per endpoint type that had requests, and one for the service, the sum, even without
requests. The proxy's own paths (health, metrics, scanners' requests) are in neither: they say
nothing about MLflow's users.

The format: "Specification: Embedded metric format" in the CloudWatch user guide. Durations are
Values and Counts, as Amazon's own agent writes histograms: percentiles need them.
"""

import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.observability.metrics import CIRCUIT_CHANGES, CIRCUIT_STATE, DURATION, REQUESTS
from app.observability.periodic import Periodic

log = logging.getLogger("hokusai.emf")

#: The metric of each outcome that has one.
BY_OUTCOME = {
    "upstream_unreachable": "Upstream502",
    "upstream_reset": "Upstream502",
    "upstream_refusal": "Upstream502",
    "upstream_timeout": "Upstream504",
    "circuit_open": "Shed",
    "overloaded": "Shed",
    "no_room": "Shed",
    "auth_unavailable": "Shed",
    "rate_limited": "RateLimited",
    "error": "Defects",
}
BY_STATUS = {"4xx": "Errors4xx", "5xx": "Errors5xx"}
COUNTS = ("Requests", *BY_STATUS.values(), *dict.fromkeys(BY_OUTCOME.values()))

#: The metric of each circuit: 1 if it is not closed in this worker, or opened since the last line.
CIRCUITS = {"mlflow": "CircuitOpen", "auth_service": "AuthCircuitOpen"}

Series = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class Tally:
    """The counts of one endpoint type, or of all. `durations`: requests by the midpoint of their
    bucket, in milliseconds; `milliseconds`: the exact sum."""

    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0.0))
    durations: dict[float, float] = field(default_factory=lambda: defaultdict(float))
    milliseconds: float = 0.0

    def add(self, other: "Tally") -> None:
        """Add another's counts."""
        for name, count in other.counts.items():
            self.counts[name] += count
        for duration, count in other.durations.items():
            self.durations[duration] += count
        self.milliseconds += other.milliseconds


class EmbeddedMetrics:
    """The lines of this worker. `interval` is in seconds."""

    def __init__(self, *, namespace: str, service: str, interval: float) -> None:
        self._namespace = namespace
        self._service = service
        self._seen: dict[Series, float] = {}
        self._guard = threading.Lock()
        self._loop = Periodic(name="emf", interval=interval, action=self.write, at_once=False)

    def start(self) -> None:
        """Start a thread that writes lines periodically."""
        self._loop.start()

    def stop(self) -> None:
        """Write the last lines, and stop."""
        self._loop.stop()
        self.write()

    def write(self) -> None:
        """Write the lines for the counts since the last call."""
        with self._guard:
            for line in self._lines():
                log.info("%s", orjson.dumps(line).decode())

    def _lines(self) -> Iterator[dict[str, Any]]:
        kinds = self._tallies()
        whole = Tally()
        for kind, tally in sorted(kinds.items()):
            whole.add(tally)
            if tally.counts["Requests"]:
                yield self._line({"EndpointType": kind}, tally, {})
        yield self._line({}, whole, self._circuits())

    def _line(
        self, dimensions: dict[str, str], tally: Tally, more: dict[str, float]
    ) -> dict[str, Any]:
        dimensions = {"Service": self._service} | dimensions
        values: dict[str, Any] = tally.counts | more
        if tally.durations:
            values["DurationMs"] = _distribution(tally)
        directive = {
            "Namespace": self._namespace,
            "Dimensions": [list(dimensions)],
            "Metrics": [{"Name": name, "Unit": _unit(name)} for name in values],
        }
        meta = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
        return {"_aws": meta, "Worker": os.getpid()} | dimensions | values

    def _tallies(self) -> dict[str, Tally]:
        """The counts since the last call, by endpoint type."""
        tallies: dict[str, Tally] = defaultdict(Tally)
        for _, labels, grown in self._growth(REQUESTS, "_total"):
            counts = tallies[labels["kind"]].counts
            counts["Requests"] += grown
            for name in (BY_STATUS.get(labels["status"]), BY_OUTCOME.get(labels["outcome"])):
                if name:
                    counts[name] += grown
        lower, below = 0.0, 0.0
        for name, labels, grown in self._growth(DURATION, "_bucket", "_sum"):
            tally = tallies[labels["kind"]]
            if name.endswith("_sum"):
                tally.milliseconds += grown * 1000
                lower, below = 0.0, 0.0
                continue
            upper = float(labels["le"])
            if grown > below:
                tally.durations[_between(lower, upper)] += grown - below
            lower, below = upper, grown
        tallies.pop("own", None)
        return dict(tallies)

    def _growth(self, metric: Any, *suffixes: str) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield (name, labels, growth since the last call) of a metric's samples."""
        for sample in _samples(metric):
            if sample.name.endswith(suffixes):
                series = (sample.name, tuple(sample.labels.items()))
                before = self._seen.get(series, 0.0)
                self._seen[series] = sample.value
                yield sample.name, sample.labels, sample.value - before

    def _circuits(self) -> dict[str, float]:
        changes = self._growth(CIRCUIT_CHANGES, "_total")
        opened = {label["circuit"] for _, label, n in changes if n and label["state"] == "open"}
        now = [(sample.labels, sample.value) for sample in _samples(CIRCUIT_STATE)]
        opened |= {label["circuit"] for label, n in now if n and label["state"] != "closed"}
        return {name: float(circuit in opened) for circuit, name in CIRCUITS.items()}


def _samples(metric: Any) -> list[Any]:
    return list(next(iter(metric.collect())).samples)


def _unit(name: str) -> str:
    return "Milliseconds" if name.endswith("Ms") else "Count"


def _between(lower: float, upper: float) -> float:
    """The midpoint of a bucket in milliseconds, from its bounds in seconds."""
    middle = lower if upper == float("inf") else (lower + upper) / 2
    return round(middle * 1000, 3)


def _distribution(tally: Tally) -> dict[str, Any]:
    values = sorted(tally.durations)
    return {
        "Values": values,
        "Counts": [tally.durations[value] for value in values],
        "Min": values[0],
        "Max": values[-1],
        "Count": sum(tally.durations.values()),
        "Sum": round(tally.milliseconds, 3),
    }
