"""CPU and memory of processes, from /proc. Linux only, as the servers' numbers are."""

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

MIB = 2**20

#: Written to clear_refs: from now on VmHWM counts anew (Documentation/filesystems/proc.rst).
RESET_PEAK = "5"

#: Seconds between two looks whether a process is idle.
LOOK = 0.05


def family(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that the processes have used until now, by the nanosecond.

    From schedstat of each thread: /proc/PID/stat holds the same sum in steps of 10 ms. A thread
    that has ended is missing in it; these servers keep theirs.
    """
    return sum(_nanoseconds(pid) for pid in pids) / 1e9


def _nanoseconds(pid: int) -> int:
    total = 0
    with contextlib.suppress(OSError):  # it ended, or one of its threads did
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def cores_used(pids: Sequence[int], seconds: float) -> float:
    """How many cores the processes keep busy, in the next so many seconds."""
    began, before = time.monotonic(), cpu_seconds(pids)
    time.sleep(seconds)
    return (cpu_seconds(pids) - before) / (time.monotonic() - began)


def wait_until_idle(
    pids: Sequence[int], resting: float = 0.0, allowance: float = 0.2, patience: float = 5.0
) -> None:
    """Returns when the processes use little more than at rest (in cores), or after `patience`."""
    deadline = time.monotonic() + patience
    while pids and time.monotonic() < deadline:
        if cores_used(pids, LOOK) < resting + allowance:
            return


def resident(pids: Iterable[int]) -> float:
    """MiB that the processes have in memory now, what they share counted for each."""
    return _status(pids, "VmRSS")


def peak(pids: Iterable[int]) -> float:
    """The most MiB that each had in memory since `reset_peak`, summed."""
    return _status(pids, "VmHWM")


def proportional(pids: Iterable[int]) -> float:
    """MiB that the processes take from the machine: what they share is counted once."""
    return sum(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in pids) / 1024


def reset_peak(pids: Iterable[int]) -> None:
    """Peaks count from now on."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)


def _status(pids: Iterable[int], name: str) -> float:
    return sum(_field(Path(f"/proc/{pid}/status"), name) for pid in pids) / 1024


def _field(file: Path, name: str) -> int:
    """A line such as `VmRSS:   1234 kB`, in KiB; 0 where it is missing."""
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
