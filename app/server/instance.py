"""What the workers of one instance share: a folder, and the secret of the verdict cache.

The master makes both once and hands them to its workers through the environment, which config/
reads there; a reload (SIGHUP) finds them made.
"""

import fcntl
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from app.observability import folders
from config import Settings
from config.running import PREPARED

log = logging.getLogger("hokusai.instance")

#: Says which folder the master made for its instance; PREPARED, with its process id, that it did
#: prepare the environment.
MADE = "HOKUSAI_INSTANCE_MADE"

#: How a folder that was made up is named, and the file in it that its processes keep locked.
FOLDER_PREFIX = "hokusai-"
ALIVE = "alive"

#: The folder in it with the files of the workers' metrics.
METRICS = "metrics"


def prepare(settings: Settings, environ: MutableMapping[str, str]) -> Path:
    """The instance's folder, made if need be; INSTANCE_FOLDER, AUTH_CACHE_SECRET and
    PROMETHEUS_MULTIPROC_DIR are set for the workers.

    Metrics of earlier processes are removed: a new instance counts from zero. A folder that cannot
    be used does not stop the start: the log and the health check `instance` name the reason.
    """
    if environ.get(PREPARED) == str(os.getpid()):
        return Path(settings.instance_folder)
    given = settings.instance_folder
    if given == environ.get(MADE):
        given = ""  # another master made it up (SIGUSR2), and removes it at its end
    environ[MADE] = "" if given else str(_make_folder())
    folder = Path(given or environ[MADE])
    metrics = folder / METRICS
    shutil.rmtree(metrics, ignore_errors=True)
    environ["INSTANCE_FOLDER"] = str(folder)
    environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    environ["AUTH_CACHE_SECRET"] = settings.auth_cache_secret or secrets.token_hex(32)
    environ[PREPARED] = str(os.getpid())
    restore(environ)
    return folder


def restore(environ: Mapping[str, str]) -> None:
    """Makes the folders that are missing, and the mark that the instance lives."""
    metrics = metrics_folder(environ)
    try:
        folders.make(metrics.parent)
        folders.make(metrics)
        if environ[MADE] and not (metrics.parent / ALIVE).exists():
            _mark_alive(metrics.parent)
    except OSError as why:
        log.error("the instance's folder cannot be used: %s", why)


def forget(environ: Mapping[str, str]) -> None:
    """Removes a folder that `prepare` made up; one that was given stays."""
    if environ.get(PREPARED) == str(os.getpid()) and environ[MADE]:
        shutil.rmtree(environ[MADE], ignore_errors=True)


def metrics_folder(environ: Mapping[str, str]) -> Path:
    """Where the workers of the instance that was prepared keep their metrics."""
    return Path(environ["PROMETHEUS_MULTIPROC_DIR"])


def _make_folder() -> Path:
    """A fresh folder, in memory where there is such a place: the lock and the metrics are written
    often and need no disk. Folders that a killed instance left behind are removed."""
    places = [Path("/dev/shm"), *_temporary()]
    for place in places:
        for left in place.glob(f"{FOLDER_PREFIX}*/{ALIVE}"):
            _remove_if_dead(left)
        try:
            return Path(tempfile.mkdtemp("", FOLDER_PREFIX, place))
        except OSError:
            continue  # not there, read-only, no inode is left
    return places[-1] / f"{FOLDER_PREFIX}{secrets.token_hex(8)}"  # it may become possible later


def _temporary() -> list[Path]:
    try:
        return [Path(tempfile.gettempdir())]
    except FileNotFoundError:  # none can be written to
        return []


def _mark_alive(folder: Path) -> None:
    # Never closed: the lock lasts as long as the last process that inherited it.
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW
    fcntl.flock(os.open(folder / ALIVE, flags, 0o600), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_if_dead(alive: Path) -> None:
    try:
        file = os.open(alive, os.O_RDWR)
    except OSError:
        return  # another user's, or just removed
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(alive.parent, ignore_errors=True)
    except OSError:
        return  # its owner lives
    finally:
        os.close(file)
