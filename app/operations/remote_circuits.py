"""The circuits of an instance's workers, seen and closed from outside: through its folder.

A circuit lives in the memory of its worker, and stays there. A thread of each worker looks into the
folder once a second: it writes the state of its circuits into a file of its own, whose time says
that the worker lives, and does what the file `reset` asks for. No request waits for any of that,
and it needs no Redis, which may be what is broken.
docs/decisions/remote-circuits.md says why not by Redis, and not by a signal.
"""

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.circuit import Circuit

log = logging.getLogger("hokusai.circuit")

#: Where these files are in an instance's folder, and the one that asks for a reset.
FOLDER = "circuits"
RESET = "reset"

#: Seconds between two looks, and the age at which a worker's file says that it is gone or frozen.
INTERVAL, GONE = 1.0, 5.0


class Publisher:
    """One worker's side: publishes its circuits, and closes them when asked to."""

    def __init__(self, folder: Path, circuits: Iterable[Circuit]) -> None:
        """`folder` is the instance's."""
        self._files = folder / FOLDER
        self._circuits = list(circuits)
        self._done = ""
        self._written = b""

    def start(self) -> None:
        """Publishes from now on, until the process ends."""
        threading.Thread(target=self._run, name="remote-circuits", daemon=True).start()

    def start_once(self) -> None:
        """Publishes once; what earlier workers left is swept up."""
        self._files.mkdir(parents=True, exist_ok=True)
        for file in self._files.glob("*.json"):
            if file.stem.isdigit() and not _lives(int(file.stem)):
                file.unlink(missing_ok=True)
        self._done = _asked_for(self._files).get("id", "")  # of a time before this worker
        self.look()

    def look(self) -> None:
        """Does what is asked for, and tells how things are."""
        asked = _asked_for(self._files)
        if asked.get("id", "") != self._done:
            self._done = asked["id"]
            for circuit in self._circuits:
                if circuit.name in asked.get("names", ()):
                    log.warning("circuit to %s is reset by hand", circuit.name)
                    circuit.reset()
        states = {circuit.name: circuit.state for circuit in self._circuits}
        self._tell({"pid": os.getpid(), "circuits": states, "done": self._done})

    def _run(self) -> None:
        look = self.start_once
        while True:
            try:
                look()
                look = self.look
            except Exception as why:  # a full disk, or a folder that was removed: again, later
                log.debug("the circuits cannot be published: %s", why)
            time.sleep(INTERVAL)

    def _tell(self, content: dict[str, Any]) -> None:
        data, file = json.dumps(content).encode(), self._files / f"{os.getpid()}.json"
        if data == self._written and file.exists():
            os.utime(file)
            return
        _replace(file, data)
        self._written = data


@dataclass(frozen=True)
class Worker:
    """What one worker said: its process id, circuit names with states, the last reset it did, and
    whether it said so lately."""

    pid: int
    circuits: dict[str, str]
    done: str
    alive: bool


class Instance:
    """An instance, from outside, by its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = folder / FOLDER

    def workers(self) -> list[Worker]:
        """The workers, by process id; those that are gone are not among them."""
        return sorted(self._published(), key=lambda worker: worker.pid)

    def reset(self, names: Iterable[str]) -> str:
        """Asks all workers to close these circuits; returns the id that those that did it tell."""
        asked = {"id": uuid.uuid4().hex, "names": sorted(names)}
        _replace(self._files / RESET, json.dumps(asked).encode())
        return str(asked["id"])

    def _published(self) -> Iterator[Worker]:
        for file in self._files.glob("*.json"):
            try:
                content = json.loads(file.read_bytes())
                age = time.time() - file.stat().st_mtime
                pid, circuits = int(content["pid"]), dict(content["circuits"])
                said = Worker(pid, circuits, str(content["done"]), age < GONE)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # just being replaced, or nothing of ours
            if _lives(said.pid):
                yield said


def instances(places: Iterable[Path]) -> list[Instance]:
    """The instances that made their folders (server/instance.py) in these places, and that have a
    worker."""
    found = []
    for place in places:
        try:
            folders = sorted({path.parent for path in place.glob(f"hokusai-*/{FOLDER}")})
        except OSError:
            continue
        found += [Instance(folder) for folder in folders]
    return [instance for instance in found if instance.workers()]


def _asked_for(files: Path) -> dict[str, Any]:
    """What the file `reset` says, {} where there is none."""
    try:
        asked = json.loads((files / RESET).read_bytes())
    except (OSError, ValueError):
        return {}
    return asked if isinstance(asked, dict) and isinstance(asked.get("id"), str) else {}


def _replace(file: Path, data: bytes) -> None:
    """Written beside it and renamed, so that nobody reads half of it."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_bytes(data)
    beside.replace(file)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
