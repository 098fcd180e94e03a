"""`make drill`: every drill in its full size, one after the other, with progress; then the table.

    python -m tests.drills                       # all of them, about fifteen minutes
    python -m tests.drills downloads creates     # some
    python -m tests.drills --json drills.json    # the rows as JSON too

Exit status 1 when a promise was not kept.
"""

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType

from devstack.environments import CLIENTS, DEVELOPMENT, MLFLOW_SERVER, ensure
from tests.drills import (
    auth_outage,
    blue_green,
    clients,
    creates,
    downloads,
    frozen_names,
    instance_folder,
    instances,
    outage,
    overload,
    redis_outage,
    restarts,
    rollback,
    slow,
    slow_sign_in,
    stalled,
)
from tests.drills.report import Row, table
from tests.drills.stage import Stage, own_stage

Drill = Callable[[Stage], Iterable[Row]]

#: By name, in the order of the table.
DRILLS: dict[str, Drill] = {
    "outage": lambda stage: outage.drill(stage, seconds=9),
    "slow": lambda stage: [slow.drill(stage, seconds=90)],
    "clients": lambda stage: clients.drill(stage, calls=25, seconds=5),
    "auth": auth_outage.drill,
    "redis": redis_outage.drill,
    "instances": instances.outage,
    "failover": instances.failover,
    "lost-node": instances.lost_node,
    "overload": lambda stage: [overload.drill(stage, seconds=15, most_ms=250)],
    "stalled": lambda stage: stalled.drill(stage, 200, asked=1000, most_ms=100, idle=20),
    # A burst of up to 500 new connections each second; an answer may have to wait behind it.
    "slow-sign-in": lambda stage: slow_sign_in.drill(stage, 500, 1000, most_ms=250, limit=10),
    "names": lambda stage: frozen_names.drill(stage, together=60),
    "instance-folder": lambda stage: instance_folder.drill(stage, answers=500),
    "restarts": lambda stage: [restarts.rolling_restart(stage, rounds=5)],
    "reloads": lambda stage: (restarts.reload(stage, 10, drain) for drain in (0, 5)),
    "rollback": rollback.drill,
    "blue-green": blue_green.drill,
    "downloads": lambda stage: [downloads.drill(stage, cut=2000)],
    "creates": lambda stage: [creates.at_a_fake(stage, 2000)],
    "creates-real": lambda stage: [creates.at_the_real_one(stage, 2000)],
}


def main() -> int:
    """Runs the drills that were named, or all; returns the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, _end)
    began = time.monotonic()
    rows: list[Row] = []

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {line}", file=sys.stderr, flush=True)

    ensure(DEVELOPMENT, MLFLOW_SERVER, *CLIENTS.values())
    with own_stage(say) as stage:
        for number, name in enumerate(options.names, 1):
            say(f"drill {number} of {len(options.names)}: {name}")
            for row in _run(name, stage):
                rows.append(row)
                say(f"  {'held' if row.held else 'NOT HELD'}: {row.fault}: {row.saw}")
            stage.clear()
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
    return 0 if all(row.held for row in rows) else 1


def _run(name: str, stage: Stage) -> Iterator[Row]:
    """A drill's rows; one that says so where the drill itself failed, and the others go on."""
    try:
        yield from DRILLS[name](stage)
    except Exception as why:
        traceback.print_exc()
        yield Row(name, "–", "–", f"the drill itself failed: {why!r}", None, {"run": False})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.drills", description="Run the fault drills."
    )
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(DRILLS)} (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON too")
    options = parser.parse_args()
    if unknown := set(options.names) - DRILLS.keys():
        parser.error(f"no such drill: {', '.join(sorted(unknown))}; there are {', '.join(DRILLS)}")
    options.names = options.names or list(DRILLS)
    return options


def _end(signum: int, frame: FrameType | None) -> None:
    """SIGTERM ends the servers too, as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
