"""Metrics for CloudWatch: the embedded metric format, one JSON object a line of the log.

CloudWatch Logs makes metrics of such lines by itself; nobody calls AWS. They are worked out every
METRICS_EMF_INTERVAL from what this worker has counted for Prometheus anyway, so no request does
more for them. Each worker writes one line for each endpoint type that had requests, and one for
the service, which sums them and comes also when there were none. The proxy's own paths (health,
metrics, whatever scanners ask for) are in neither: they say nothing about MLflow's users.

The format: "Specification: Embedded metric format" in the CloudWatch user guide. Durations go as
Values and Counts, as Amazon's own agent writes histograms: that is what percentiles need.
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

#: Metric by outcome, for the outcomes that have one of their own.
BY_OUTCOME = {
    "upstream_unreachable": "Upstream502",
    "upstream_reset": "Upstream502",
    "upstream_timeout": "Upstream504",
    "circuit_open": "Shed",
    "overloaded": "Shed",
    "auth_unavailable": "Shed",
    "rate_limited": "RateLimited",
    "error": "Defects",
}
BY_STATUS = {"4xx": "Errors4xx", "5xx": "Errors5xx"}
COUNTS = ("Requests", *BY_STATUS.values(), *dict.fromkeys(BY_OUTCOME.values()))

#: Metric by circuit: 1 if it is not closed in this worker, or opened since the last line.
CIRCUITS = {"mlflow": "CircuitOpen", "auth_service": "AuthCircuitOpen"}

Series = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class Tally:
    """What was counted of one endpoint type, or of all. `durations`: requests by the time that
    stands for theirs, in milliseconds; `milliseconds`: their sum, exact."""

    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0.0))
    durations: dict[float, float] = field(default_factory=lambda: defaultdict(float))
    milliseconds: float = 0.0

    def add(self, other: "Tally") -> None:
        """Adds what was counted there."""
        for name, count in other.counts.items():
            self.counts[name] += count
        for duration, count in other.durations.items():
            self.durations[duration] += count
        self.milliseconds += other.milliseconds


class EmbeddedMetrics:
    """The lines of this worker. `interval` is in seconds."""

    def __init__(self, namespace: str, service: str, interval: float) -> None:
        self._namespace = namespace
        self._service = service
        self._seen: dict[Series, float] = {}
        self._guard = threading.Lock()
        self._loop = Periodic(name="emf", interval=interval, action=self.write, at_once=False)

    def start(self) -> None:
        """From now on lines are written, by a thread of its own."""
        self._loop.start()

    def stop(self) -> None:
        """Writes what was counted since the last lines, and then no more."""
        self._loop.stop()
        self.write()

    def write(self) -> None:
        """Writes the lines for what was counted since the last time."""
        with self._guard:
            for line in self.lines():
                log.info("%s", orjson.dumps(line).decode())

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines, as objects; the next call begins where this one ended."""
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
        metrics = [{"Name": name, "Unit": _unit(name)} for name in values]
        directive = {
            "Namespace": self._namespace,
            "Dimensions": [list(dimensions)],
            "Metrics": metrics,
        }
        meta = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
        return {"_aws": meta, "Worker": os.getpid()} | dimensions | values

    def _tallies(self) -> dict[str, Tally]:
        """By endpoint type, what was counted since the last time."""
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
        """(name, labels, by how much it grew since it was last asked) of a metric's samples."""
        for sample in next(iter(metric.collect())).samples:
            if sample.name.endswith(suffixes):
                series = (sample.name, tuple(sample.labels.items()))
                before = self._seen.get(series, 0.0)
                self._seen[series] = sample.value
                yield sample.name, sample.labels, sample.value - before

    def _circuits(self) -> dict[str, float]:
        shown = {name: 0.0 for name in CIRCUITS.values()}
        for _, labels, opened in self._growth(CIRCUIT_CHANGES, "_total"):
            if labels["state"] == "open" and opened and labels["circuit"] in CIRCUITS:
                shown[CIRCUITS[labels["circuit"]]] = 1.0
        for sample in next(iter(CIRCUIT_STATE.collect())).samples:
            labels = sample.labels
            if labels["state"] != "closed" and sample.value and labels["circuit"] in CIRCUITS:
                shown[CIRCUITS[labels["circuit"]]] = 1.0
        return shown


def _unit(name: str) -> str:
    return "Milliseconds" if name.endswith("Ms") else "Count"


def _between(lower: float, upper: float) -> float:
    """The time, in milliseconds, that stands for those between two bounds in seconds."""
    middle = lower if upper == float("inf") else (lower + upper) / 2
    return round(middle * 1000, 3)


def _distribution(tally: Tally) -> dict[str, Any]:
    """Durations as exact as the buckets are; the sum is exact."""
    values = sorted(tally.durations)
    return {
        "Values": values,
        "Counts": [tally.durations[value] for value in values],
        "Min": values[0],
        "Max": values[-1],
        "Count": sum(tally.durations.values()),
        "Sum": round(tally.milliseconds, 3),
    }
