"""gunicorn's master, which nothing may end that goes wrong beside workers that serve.

gunicorn's own ends, and its workers with it, where it cannot fork (a limit of processes, no
memory), where a new worker does not come up, where the configuration cannot be read again on
SIGHUP, and where the program is gone on SIGUSR2. At the start that is right, and it stays so. Later
the workers that serve go on, what failed is logged, and a worker is tried again after a pause. When
none is left that serves, gunicorn's own decision stands: whoever started the instance starts it
anew.
"""

import os
import time
from contextlib import suppress
from typing import Any

from gunicorn.app import base
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

#: Seconds until a worker is tried again.
PAUSE = 5.0


class LastingArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's own, but for what ends it. A forked child is in these methods too, and leaves them
    by SystemExit."""

    _not_before = 0.0
    _looked_at = _spares_until = 0.0

    def spawn_worker(self) -> Any:
        """Forks a worker. None where that fails and others serve."""
        try:
            return super().spawn_worker()
        except (OSError, MemoryError) as why:
            if not self._goes_on():
                raise
            self._try_later("a worker cannot be started: %s", why)
            return None

    def spawn_workers(self) -> None:
        """As many as are missing, unless one has just failed."""
        if time.monotonic() >= self._not_before:
            super().spawn_workers()

    def reap_workers(self) -> None:
        """Buries the dead. One that did not come up ends the instance only where none serves."""
        while True:
            try:
                super().reap_workers()
                return
            except HaltServer as why:
                if not self._goes_on():
                    raise
                self._try_later("a worker did not come up: %s", why.reason)

    def murder_workers(self) -> None:
        """Ends workers without a sign of life; not at once where this process had none either.
        Whoever stops a container, or a machine, for a while (a snapshot, `docker pause`) stops all
        of them, and the clock goes on."""
        if not self.timeout:
            return
        now = time.monotonic()
        if self._looked_at and now > self._looked_at + self.timeout / 2:
            self._spares_until = now + self.timeout / 2
            self.log.warning(
                "the instance was stopped for %.0f s, and goes on", now - self._looked_at
            )
        self._looked_at = now
        if now >= self._spares_until:
            super().murder_workers()

    def reload(self) -> None:
        """SIGHUP."""
        before = self.app.cfg
        try:
            super().reload()
        except (Exception, SystemExit):
            if not self._goes_on():
                raise
            self.app.cfg = before
            with suppress(Exception):
                self.setup(self.app)
            self.log.exception("the reload failed; the instance goes on as it was")

    def reexec(self) -> None:
        """SIGUSR2. A child that cannot become the new master must not act as this one, which would
        stop its workers."""
        try:
            super().reexec()
        except Exception:
            self.log.exception("no second master can be started")
            if not self._is_master():
                os._exit(1)

    def _is_master(self) -> bool:
        return bool(os.getpid() == self.pid)

    def _goes_on(self) -> bool:
        """Whether this is the master, and a worker serves. Its heartbeat file has the time of the
        clock until the worker's loop puts that of the monotonic clock there, which is less."""
        if not self._is_master():
            return False
        return any(worker.tmp.last_update() <= time.monotonic() for worker in self.WORKERS.values())

    def _try_later(self, message: str, why: object) -> None:
        self._not_before = time.monotonic() + PAUSE
        self.log.error(f"{message}; the others serve, and it is tried again", why)


def install() -> None:
    """From now on `gunicorn` starts this one."""
    base.Arbiter = LastingArbiter
