"""Which processes run on which cores: a contestant must not share its core with its load."""

import os
import sys
from collections.abc import Sequence

from benchmarks.machine import core_count

#: Core numbers; None leaves a process where the system puts it.
Cores = frozenset[int] | None

#: Sets the cores, then becomes the command.
_BECOME = (
    "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); "
    "os.execvp(sys.argv[2], sys.argv[2:])"
)


def on_cores(command: Sequence[str], cores: Cores) -> list[str]:
    """The command, bound to these cores with all its children."""
    if cores is None:
        return list(command)
    numbers = ",".join(map(str, sorted(cores)))
    return [sys.executable, "-I", "-c", _BECOME, numbers, *command]


def split() -> tuple[Cores, Cores]:
    """(a core for the contestant, the rest for everybody else); (None, None) on a single core."""
    if core_count() < 2:
        return None, None
    first, *others = sorted(os.sched_getaffinity(0))
    return frozenset((first,)), frozenset(others)
