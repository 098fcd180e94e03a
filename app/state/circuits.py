"""The circuits of all workers of an instance: each worker tells how its own are.

A circuit lives in the memory of its worker, and stays there. What is told of it stands in the
instance's store, one record for each worker: written when a circuit changes, and once a second
besides, which says that the worker lives. The health checks and `flask circuit` read the same
records, and the workers find there what `flask circuit` asks them for. That needs no Redis, which
may be what is broken. docs/decisions/circuit.md says why so.
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

#: What the names in the store begin with. A process id follows, and for a reset `:` and a circuit.
RECORD, RESET = "circuits:", "reset-circuit:"

#: Seconds between two records, and the age at which one says that its worker is frozen.
INTERVAL, FROZEN = 1.0, 5.0

#: Seconds for which a record or what was asked for stands; gunicorn.conf.py (`timeout`) ends a
#: frozen worker before that.
LIFETIME = 120.0


@dataclass(frozen=True)
class Worker:
    """What one worker told: its process id, circuit names with states; and whether it told so
    lately."""

    pid: int
    circuits: dict[str, str]
    alive: bool


class CircuitBoard:
    """What the workers of an instance tell each other, and whoever looks from outside."""

    def __init__(self, store: InstanceStore, circuits: Iterable[Circuit] = ()) -> None:
        """`circuits` are those of this worker; who only looks has none."""
        self._store = store
        self._circuits = {circuit.name: circuit for circuit in circuits}
        self._states = {name: circuit.state for name, circuit in self._circuits.items()}
        self._telling = threading.Lock()

    def start(self) -> None:
        """Looks once a second from now on, until the process ends."""
        # A failure may be that of a full disk, every second: no error.
        Periodic(name="circuits", interval=INTERVAL, action=self.look, level=logging.DEBUG).start()

    def note(self, name: str, state: str) -> None:
        """A circuit of this worker is about to be closed, open or half-open: told at once."""
        self._tell({name: state})

    def look(self) -> None:
        """Closes those circuits of this worker that it is asked to close, and tells how all are."""
        asked = f"{RESET}{os.getpid()}:"
        for name in self._circuits.keys() & self._store.values(asked):
            log.warning("circuit to %s is reset by hand", name)
            self._circuits[name].reset()
            self._store.forget(asked + name)
        self._tell({})

    def workers(self) -> list[Worker]:
        """The workers, by process id; those that are gone are not among them."""
        told = {int(pid): json.loads(said) for pid, said in self._store.values(RECORD).items()}
        late = time.time() - FROZEN
        return [
            Worker(pid, said["circuits"], said["at"] > late)
            for pid, said in sorted(told.items())
            if _lives(pid)
        ]

    def not_closed(self, circuit: Circuit) -> dict[str, str]:
        """The states that are not closed, by worker (its process id); of this one as it is now."""
        states = {str(worker.pid): worker.circuits[circuit.name] for worker in self.workers()}
        states[str(os.getpid())] = circuit.state
        return {pid: state for pid, state in states.items() if state != "closed"}

    def reset(self, names: Collection[str]) -> bool:
        """Asks all workers to close these circuits; False where that cannot be written."""
        asked = [f"{RESET}{worker.pid}:{name}" for worker in self.workers() for name in names]
        return all([self._store.set_value(name, b"", LIFETIME) for name in asked])

    def late(self) -> list[int]:
        """The workers that have not yet done all that they were asked for."""
        waiting = {int(name.split(":")[0]) for name in self._store.values(RESET)}
        return [worker.pid for worker in self.workers() if worker.pid in waiting]

    def _tell(self, changed: dict[str, str]) -> None:
        with self._telling:  # or an older record could be written over a newer one
            self._states |= changed
            record = {"at": time.time(), "circuits": self._states}
            self._store.set_value(f"{RECORD}{os.getpid()}", json.dumps(record).encode(), LIFETIME)


def instances(folders: Iterable[Path]) -> dict[Path, CircuitBoard]:
    """The boards in those of these folders (app/server/instance.py) that belong to an instance with
    a worker."""
    ours = [folder for folder in folders if os.access(folder / FILE, os.R_OK)]  # opening makes one
    boards = {
        folder: CircuitBoard(InstanceStore.at(folder / FILE, is_ours=False)) for folder in ours
    }
    return {folder: board for folder, board in boards.items() if board.workers()}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as why:
        return isinstance(why, PermissionError)  # another user's
    return True
