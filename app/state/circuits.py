"""The circuits of all workers of an instance: each worker publishes the states of its own.

A circuit lives in the memory of its worker, and stays there. Its state is published in the
instance's store, one record per worker: written when a circuit changes, and once a second as a
heartbeat. The health checks and `flask circuit` read the same records, and the workers find the
reset requests of `flask circuit` there. That needs no Redis, which may be what is broken.
docs/decisions/circuit.md gives the reasons.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from app.observability.periodic import Periodic
from app.state.instance_database import FILE
from app.state.instance_store import InstanceStore
from app.upstream.circuit import Circuit

log = logging.getLogger("hokusai.circuit")

#: Prefixes of the names in the store. A process id follows, and for a reset `:` and a circuit.
RECORD, RESET = "circuits:", "reset-circuit:"

#: Seconds between two records, and the age from which a record marks its worker as frozen.
INTERVAL, FROZEN = 1.0, 5.0

#: Seconds for which a record or a reset request is kept; gunicorn.conf.py (`timeout`) ends a frozen
#: worker before that.
LIFETIME = 120.0


@dataclass(frozen=True)
class Worker:
    """One worker's record: its process id, the states of its circuits by name, and whether the
    record is recent."""

    pid: int
    circuits: dict[str, str]
    alive: bool


class CircuitBoard:
    """The records of an instance's workers, for themselves and for observers."""

    def __init__(self, store: InstanceStore, circuits: Iterable[Circuit] = ()) -> None:
        """`circuits` are those of this worker; an observer has none."""
        self._store = store
        self._circuits = {circuit.name: circuit for circuit in circuits}
        self._states = {name: circuit.state for name, circuit in self._circuits.items()}
        self._telling = threading.Lock()

    def start(self) -> None:
        """Look once a second from now on, until the process ends."""
        # DEBUG: a failure, of a full disk for example, may repeat every second.
        Periodic(name="circuits", interval=INTERVAL, action=self.look, level=logging.DEBUG).start()

    def note(self, name: str, state: str) -> None:
        """Publish at once that a circuit of this worker becomes closed, open or half-open."""
        self._tell({name: state})

    def look(self) -> None:
        """Close the circuits of this worker for which a reset is requested; publish all states."""
        prefix = f"{RESET}{os.getpid()}:"
        for name in self._circuits.keys() & self._store.values(prefix):
            log.warning("circuit to %s is reset by hand", name)
            self._circuits[name].reset()
            self._store.forget(prefix + name)
        self._tell({})

    def workers(self) -> list[Worker]:
        """Return the workers that are alive, by process id."""
        records = self._store.values(RECORD).items()
        workers = {int(pid): json.loads(record) for pid, record in records}
        late = time.time() - FROZEN
        return [
            Worker(pid, record["circuits"], record["at"] > late)
            for pid, record in sorted(workers.items())
            if _lives(pid)
        ]

    def not_closed(self, circuit: Circuit) -> dict[str, str]:
        """Return the states that are not closed, by process id; this worker's own is current."""
        states = {str(worker.pid): worker.circuits[circuit.name] for worker in self.workers()}
        states[str(os.getpid())] = circuit.state
        return {pid: state for pid, state in states.items() if state != "closed"}

    def reset(self, names: Collection[str]) -> bool:
        """Ask all workers to close these circuits; return False if that cannot be stored."""
        requests = [f"{RESET}{worker.pid}:{name}" for worker in self.workers() for name in names]
        return all([self._store.set_value(name, b"", LIFETIME) for name in requests])

    def late(self) -> list[int]:
        """Return the workers with reset requests that are still pending, by process id."""
        waiting = {int(name.split(":")[0]) for name in self._store.values(RESET)}
        return [worker.pid for worker in self.workers() if worker.pid in waiting]

    def _tell(self, changed: dict[str, str]) -> None:
        with self._telling:  # else an older record could overwrite a newer one
            self._states |= changed
            record = {"at": time.time(), "circuits": self._states}
            self._store.set_value(f"{RECORD}{os.getpid()}", json.dumps(record).encode(), LIFETIME)


def instances(folders: Iterable[Path]) -> dict[Path, CircuitBoard]:
    """Return the boards in those of these folders (app/server/instance.py) that belong to an
    instance with a worker."""
    ours = [folder for folder in folders if os.access(folder / FILE, os.R_OK)]  # else it is made
    boards = {
        folder: CircuitBoard(InstanceStore.at(folder / FILE, is_ours=False)) for folder in ours
    }
    return {folder: board for folder, board in boards.items() if board.workers()}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as why:
        return isinstance(why, PermissionError)  # it is another user's
    return True
