"""The files in which prometheus_client keeps the metrics of each worker, when a worker has ended.

Each scrape reads all files. So what a dead worker counted is added to one file for all the dead,
and its own files go: 200 restarts later a scrape reads as many files as after the first. What it
only showed (its gauges) goes with it.

The folder is locked meanwhile, exclusively here and shared by a scrape (app/operations/
metrics_page.py), or a scrape could see a count twice, or not at all.
"""

import fcntl
import logging
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger("hokusai.metrics")

#: Seconds that the master waits for a scrape to end. One takes some ten milliseconds; a worker that
#: is stopped in the middle of one must not stop the master. The next dead worker brings the rest.
PATIENCE = 0.5

#: What stands for the process id in the name of the file for all the dead.
DEAD = "dead"


def merge_dead(folder: Path) -> None:
    """Merges the files of all processes that are no more."""
    with _locked(folder) as is_ours:
        if not is_ours:
            return
        for file in sorted(folder.glob("*.db")):
            kind, process = file.stem.partition("_")[0], file.stem.rpartition("_")[2]
            if not process.isdigit() or _lives(int(process)):
                continue
            if kind != "gauge":
                _add(file, file.with_name(f"{kind}_{DEAD}.db"))
            file.unlink()


def _lives(process: int) -> bool:
    """Whether there is such a process. Another master's workers may be among them (SIGUSR2)."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, who got the number since: its turn comes when that one has ended
    return True


def _add(file: Path, total: Path) -> None:
    """Adds the counts in a file to those of the dead; both counters and the parts of histograms
    are sums."""
    from prometheus_client.mmap_dict import MmapedDict  # not before it is needed: it imports much

    library: Any = MmapedDict
    try:
        counts = list(library.read_all_values_from_file(str(file)))
        totals = library(str(total))
        for key, count, _, _ in counts:
            before, _ = totals.read_value(key)
            totals.write_value(key, before + count, 0.0)
        totals.close()
    except (OSError, RuntimeError, ValueError, struct.error) as why:  # killed while it wrote, say
        log.warning("the metrics of a dead worker are lost: %s", why)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """The folder, for us alone; False where somebody else kept it for PATIENCE."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(directory)
    finally:
        os.close(directory)  # and with it goes the lock


def _lock(directory: int) -> bool:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
