"""/metrics for Prometheus, summed over the workers of this instance, those that ended included.

In its text format, or as OpenMetrics for whoever prefers that.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import prometheus_client
from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry, values
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.observability.condition_metrics import refresh_files
from app.request.errors import Overloaded

log = logging.getLogger("hokusai.metrics")

#: Seconds to wait while the master merges the files of a dead worker, which takes milliseconds.
PATIENCE = 2.0


def blueprint(folder: Path | None) -> Blueprint:
    """The one route; the load balancer does not forward it. `folder` holds the workers' files."""
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics")
    def metrics() -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry(folder)), content_type=content_type)

    return routes


def registry(folder: Path | None) -> CollectorRegistry:
    """All workers' files where there are several processes, else this process's own values."""
    if folder is None or values.ValueClass is values.MutexValue:
        return prometheus_client.REGISTRY
    of_all = CollectorRegistry()
    of_all.register(AllWorkers(folder))
    return of_all


class AllWorkers(Collector):
    """The metrics in the files of a folder, summed; this worker's own where there is no folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Any]:
        """Every metric. Raises Overloaded while the files are being merged for too long."""
        refresh_files()
        try:
            with _unchanged(self._folder):
                return _summed(self.files())
        except OSError as why:  # the folder has vanished, or something else is in its place
            _warn(f"/metrics shows the worker that answers, no other: {why}")
            return list(prometheus_client.REGISTRY.collect())

    def files(self) -> list[str]:
        """What has to be read; not a file that a new worker made just now, and that is empty."""
        return [str(file) for file in self._folder.glob("*.db") if file.stat().st_size]


def _summed(files: list[str]) -> list[Any]:
    """The sums of these files; a damaged one is left out."""
    try:
        return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]
    except Exception as why:  # whatever a damaged file makes of the library
        good = [file for file in files if _can_be_read(file)]
        if len(good) == len(files):
            raise
        _warn(f"/metrics lacks {len(files) - len(good)} damaged files: {why!r}")
        return _summed(good)


def _can_be_read(file: str) -> bool:
    try:
        list(MultiProcessCollector.merge([file]))  # type: ignore[no-untyped-call]
    except Exception:  # as above
        return False
    return True


@cache
def _warn(message: str) -> None:
    """Once for each message and worker: scrapes come often."""
    log.warning(message)


@contextmanager
def _unchanged(folder: Path) -> Iterator[None]:
    """While this lasts no file is merged or removed: app/server/metric_files.py locks it."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end = time.monotonic() + PATIENCE
        while not _shared(directory):
            if time.monotonic() > end:
                raise Overloaded("The metrics are being put in order; ask again.", 1)
            time.sleep(0.005)
        yield
    finally:
        os.close(directory)


def _shared(directory: int) -> bool:
    """Whether the lock is ours, together with other scrapes. Never waits: this worker has others to
    serve."""
    try:
        fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
