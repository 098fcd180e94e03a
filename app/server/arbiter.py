"""gunicorn's master, which nothing may end that goes wrong beside workers that serve.

gunicorn's own ends, and its workers with it, where it cannot fork (a limit of processes, no
memory), where a new worker does not come up (after SIGHUP, say, those of a bad release), where the
configuration cannot be read again on SIGHUP, and where the program is gone on SIGUSR2. At the start
that is right, and it stays so. Later the workers that serve go on, what failed is logged, and a
worker is tried again after a pause. When none is left that serves, gunicorn's own decision stands:
whoever started the instance starts it anew.
"""

import os
import signal
import time
from contextlib import suppress
from typing import Any

from gunicorn.app import base
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

#: Seconds until a worker is tried again.
PAUSE = 5.0


class _Reloaded(Exception):
    """All that a reload has to do is done."""


class LastingArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's own, but for what ends it. A forked child is in these methods too, and leaves them
    by SystemExit."""

    _not_before = 0.0
    _is_reloading = False
    _looked_at = _spares_until = 0.0

    def signal(self, sig: int, frame: Any) -> None:
        """Puts a signal into the master's queue. A worker has this handler too, until it has its
        own: what it put into its copy of the queue would be lost, a stop among it."""
        if self._is_master():
            super().signal(sig, frame)
        elif sig in (signal.SIGTERM, signal.SIGQUIT):
            os._exit(0)

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
        """As many as are missing, unless one has just failed. One that was told to stop, and
        finishes its transfers, is in nobody's place."""
        if time.monotonic() < self._not_before:
            return
        leaving = sum(worker.draining for worker in self.WORKERS.values())
        self.num_workers += leaving
        try:
            super().spawn_workers()
        finally:
            self.num_workers -= leaving

    def manage_workers(self) -> None:
        """Starts those that are missing, and stops the oldest of those that are too many: of a
        reload, those of before once the new ones serve, and what an earlier one still starts."""
        self.spawn_workers()
        staying = [worker for worker in self.WORKERS.values() if not worker.draining]
        staying.sort(key=lambda worker: worker.age)
        spare = sum(map(_serves, staying)) - self.num_workers
        for worker in staying[: max(0, len(staying) - self.num_workers)]:
            if not _serves(worker):
                self.kill_worker(worker.pid, signal.SIGTERM)
            elif spare > 0:
                spare -= 1
                self.kill_worker(worker.pid, signal.SIGTERM)

    def kill_worker(self, pid: int, sig: int) -> None:
        """Sends a signal, and notes here who was told to stop."""
        if sig == signal.SIGTERM and pid in self.WORKERS:
            self.WORKERS[pid].draining = True
        super().kill_worker(pid, sig)

    def reap_workers(self) -> None:
        """Buries the dead. One that did not come up ends the instance only where none serves."""
        if self._is_reloading:
            raise _Reloaded
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
        """SIGHUP. gunicorn's own would wait here until the workers of before have finished their
        transfers, and hear no SIGTERM and replace no dead worker meanwhile."""
        before, self._is_reloading = self.app.cfg, True
        try:
            super().reload()
        except _Reloaded:
            pass
        except (Exception, SystemExit):
            if not self._goes_on():
                raise
            self.app.cfg = before
            with suppress(Exception):
                self.setup(self.app)
            self.log.exception("the reload failed; the instance goes on as it was")
        finally:
            self._is_reloading = False

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
        """Whether this is the master, and a worker serves."""
        return self._is_master() and any(map(_serves, self.WORKERS.values()))

    def _try_later(self, message: str, why: object) -> None:
        self._not_before = time.monotonic() + PAUSE
        self.log.error(f"{message}; the others serve, and one that is missing is tried again", why)


def _serves(worker: Any) -> bool:
    """Whether its loop runs. Its heartbeat file has the time of the clock until the loop puts that
    of the monotonic clock there, which is less."""
    return bool(worker.tmp.last_update() <= time.monotonic())


def install() -> None:
    """From now on `gunicorn` starts this one."""
    base.Arbiter = LastingArbiter
