"""Periodic: an action repeated in its own thread, in each worker."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("hokusai.periodic")


class Periodic:
    """Repeat `action` every `interval` seconds, until stop() or the end of the process. A failure
    is logged with `level`, and the loop continues."""

    def __init__(
        self,
        *,
        name: str,
        interval: float,
        action: Callable[[], None],
        at_once: bool = True,
        level: int = logging.ERROR,
    ) -> None:
        """`name` is the thread's. Without `at_once` the first action waits one interval."""
        self._name = name
        self._interval = interval
        self._action = action
        self._at_once = at_once
        self._level = level
        self._is_stopping = False
        self._pause = threading.Event()

    def start(self) -> None:
        """Start the thread. Call once, in the process that runs it."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def stop(self) -> None:
        """Stop: no further action begins."""
        self._is_stopping = True
        self.wake()

    def wake(self) -> None:
        """Begin the next action now."""
        self._pause.set()

    def _run(self) -> None:
        if not self._at_once:
            self._wait()
        while not self._is_stopping:
            try:
                self._action()
            except Exception:
                log.log(self._level, "%s failed; retrying", self._name, exc_info=True)
            self._wait()

    def _wait(self) -> None:
        self._pause.wait(self._interval)
        self._pause.clear()
