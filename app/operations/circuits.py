"""What the circuits of all workers of this instance look like: each worker has its own."""

import os

from app.circuit import Circuit
from app.instance_store import InstanceStore


class CircuitBoard:
    """Each worker notes here when a circuit of its own opens or closes."""

    def __init__(self, store: InstanceStore, lifetime: float) -> None:
        """A note is believed for `lifetime` seconds, more than lies between two probes: a worker
        that dies takes nothing back."""
        self._store = store
        self._lifetime = lifetime

    def note(self, circuit: str, state: str) -> None:
        """A circuit of this worker is now closed, open or half-open."""
        name = f"circuit:{circuit}:{os.getpid()}"
        if state == "closed":
            self._store.forget(name)
        else:
            self._store.set_value(name, state.encode(), self._lifetime)

    def not_closed(self, circuit: Circuit) -> dict[str, str]:
        """The states that are not closed, by worker (its process id); of this one as it is now."""
        noted = self._store.values(f"circuit:{circuit.name}:")
        states = {worker: state.decode() for worker, state in noted.items()}
        states[str(os.getpid())] = circuit.state
        return {worker: state for worker, state in states.items() if state != "closed"}
