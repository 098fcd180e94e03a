"""CPU and memory of processes, from Linux's /proc."""

import contextlib
import resource
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

MIB = 2**20


def family(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that the processes have used so far.

    From schedstat of each thread, in nanoseconds: /proc/PID/stat counts in steps of 10 ms.
    Threads that have ended are missing; these servers keep theirs.
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # the process ended, or one of its threads did
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def cpu_seconds_of_ended_children() -> float:
    """The same of all child processes of this one that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cores_used(pids: Sequence[int], seconds: float) -> float:
    """How many cores the processes keep busy during the next `seconds`."""
    began, before = time.monotonic(), cpu_seconds(pids)
    time.sleep(seconds)
    return (cpu_seconds(pids) - before) / (time.monotonic() - began)


def wait_until_idle(pids: Sequence[int], cores: float = 0.2, timeout: float = 5.0) -> None:
    """Return when the processes use less than so many cores, or after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while pids and time.monotonic() < deadline and cores_used(pids, 0.05) >= cores:
        pass


def memory(pids: Iterable[int]) -> float:
    """MiB in memory now; what processes share counts once."""
    return sum(float(psutil.Process(pid).memory_full_info().pss) for pid in pids) / MIB


def reset_peak(pids: Iterable[int]) -> None:
    """Let `peak` begin at what is in memory now (Documentation/filesystems/proc.rst)."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pids: Iterable[int]) -> float:
    """The highest MiB that each had in memory since `reset_peak`, summed."""
    status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in status) / 1024
