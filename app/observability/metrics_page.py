"""/metrics: the sum over this instance's workers, ended ones included.

In Prometheus's text format, or as OpenMetrics if the client prefers it.
"""

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import prometheus_client
from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry, values
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.observability import folders
from app.observability.metric_file import MetricFile
from app.request.errors import Overloaded

log = logging.getLogger("hokusai.metrics")

#: Timeout in seconds for the lock that the master holds while it merges a dead worker's files; a
#: merge takes milliseconds (app/server/metric_files.py).
LOCK_TIMEOUT = 2.0


def blueprint(folder: Path | None) -> Blueprint:
    """Build the route, which the load balancer does not forward. `folder`: the workers' files."""
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics")
    def metrics() -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry(folder)), content_type=content_type)

    return routes


def registry(folder: Path | None) -> CollectorRegistry:
    """All workers' files if there are several processes, else this process's own values."""
    if folder is None or values.ValueClass is values.MutexValue:
        return prometheus_client.REGISTRY
    of_all = CollectorRegistry()
    of_all.register(AllWorkers(folder))
    return of_all


class AllWorkers(Collector):
    """The sum of the metric files in a folder; this worker's own metrics if the folder is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Any]:
        """Collect every metric. Raises Overloaded if the folder stays locked for LOCK_TIMEOUT."""
        MetricFile.refresh_all()
        try:
            with folders.locked(self._folder, shared=True, timeout=LOCK_TIMEOUT) as is_locked:
                if not is_locked:
                    raise Overloaded("The metric files are being merged; repeat the request.", 1)
                return _summed(self.files())
        except OSError as why:  # the folder has vanished, or something else is in its place
            _warn(f"/metrics shows only the worker that serves it: {why}")
            return list(prometheus_client.REGISTRY.collect())

    def files(self) -> list[str]:
        """The files to read, without the empty ones that a new worker has just created."""
        return [str(file) for file in self._folder.glob("*.db") if file.stat().st_size]


def _summed(files: list[str]) -> list[Any]:
    """Sum these files; skip damaged ones."""
    try:
        return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]
    except Exception as why:  # whatever the library raises for a damaged file
        good = [file for file in files if _can_be_read(file)]
        if len(good) == len(files):
            raise
        _warn(f"/metrics skips {len(files) - len(good)} damaged files: {why!r}")
        return _summed(good)


def _can_be_read(file: str) -> bool:
    try:
        list(MultiProcessCollector.merge([file]))  # type: ignore[no-untyped-call]
    except Exception:  # as above
        return False
    return True


@cache
def _warn(message: str) -> None:
    """Log each message once: scrapes are frequent."""
    log.warning(message)
