"""gunicorn's master, which no failure ends while workers still serve.

gunicorn's own exits, and its workers with it, if it cannot fork (a limit of processes, no memory),
if a new worker fails to boot, if the configuration cannot be reloaded on SIGHUP, and if the program
is missing on SIGUSR2. At startup that is right, and stays so. Later the serving workers continue,
the failure is logged, and a worker is retried after a pause. If none serves, gunicorn's own
decision applies: the service manager restarts the instance.
"""

import os
import signal
import time
from contextlib import suppress
from typing import Any

from gunicorn.app import base
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

#: Seconds before a failed worker is retried.
PAUSE = 5.0


class _Reloaded(Exception):
    """The reload is complete."""


class LastingArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter, without what ends it. A forked child runs these methods, too, and leaves
    them by SystemExit."""

    _not_before = 0.0
    _is_reloading = False
    _replaced = 0  # a reload replaces the workers up to this age, gunicorn's count of them
    _looked_at = _spares_until = 0.0

    def signal(self, sig: int, frame: Any) -> None:
        """Queue a signal for the master. A new worker has this handler, too, until it sets its own:
        a signal in its copy of the queue would be lost, SIGTERM included."""
        if self._is_master():
            super().signal(sig, frame)
        elif sig in (signal.SIGTERM, signal.SIGQUIT):
            os._exit(0)

    def spawn_worker(self) -> Any:
        """Fork a worker. Return None if that fails while others serve."""
        try:
            return super().spawn_worker()
        except (OSError, MemoryError) as why:
            if not self._goes_on():
                raise
            self._try_later("cannot start a worker: %s", why)
            return None

    def spawn_workers(self) -> None:
        """Fork as many workers as are missing, unless one has just failed. Those that finish their
        transfers do not count, nor those that a reload is to replace."""
        if time.monotonic() < self._not_before:
            return
        leaving = sum(
            worker.draining or worker.age <= self._replaced for worker in self.WORKERS.values()
        )
        self.num_workers += leaving
        try:
            super().spawn_workers()
        finally:
            self.num_workers -= leaving

    def manage_workers(self) -> None:
        """Start missing workers; stop the oldest if there are too many. After a reload, those of
        before are stopped once the new ones serve."""
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
        self._looked_at = self._looked_at or time.monotonic()  # workers may hang from now on

    def kill_worker(self, pid: int, sig: int) -> None:
        """Send a signal; mark a worker that gets SIGTERM as draining."""
        if sig == signal.SIGTERM and pid in self.WORKERS:
            self.WORKERS[pid].draining = True
        super().kill_worker(pid, sig)

    def reap_workers(self) -> None:
        """Reap dead workers. One that failed to boot ends the instance only if none serves."""
        if self._is_reloading:
            raise _Reloaded
        while True:
            try:
                super().reap_workers()
                return
            except HaltServer as why:
                if not self._goes_on():
                    raise
                self._try_later("a worker failed to boot: %s", why.reason)

    def murder_workers(self) -> None:
        """Kill workers without a heartbeat, but not right after this process itself was stopped.
        Pausing a container or a machine (a snapshot, `docker pause`) stops all processes, while the
        clock runs on."""
        if not self.timeout:
            return
        now = time.monotonic()
        if self._looked_at and now > self._looked_at + self.timeout / 2:
            self._spares_until = now + self.timeout / 2
            self.log.warning(
                "the instance was paused for %.0f s, and has resumed", now - self._looked_at
            )
        self._looked_at = now
        if now >= self._spares_until:
            super().murder_workers()

    def reload(self) -> None:
        """Handle SIGHUP. gunicorn's version waits here until the old workers finish their
        transfers; meanwhile it handles no SIGTERM and replaces no dead worker."""
        before, self._is_reloading = self.app.cfg, True
        replaced, self._replaced = self._replaced, self.worker_age
        try:
            super().reload()
        except _Reloaded:
            pass
        except (Exception, SystemExit):
            if not self._goes_on():
                raise
            self.app.cfg, self._replaced = before, replaced
            with suppress(Exception):
                self.setup(self.app)
            self.log.exception("the reload failed; the instance keeps its configuration")
        finally:
            self._is_reloading = False

    def reexec(self) -> None:
        """Handle SIGUSR2. A child that cannot become the new master must exit at once: acting as
        this one, it would stop the workers."""
        try:
            super().reexec()
        except Exception:
            self.log.exception("cannot start a second master")
            if not self._is_master():
                os._exit(1)

    def _is_master(self) -> bool:
        return bool(os.getpid() == self.pid)

    def _goes_on(self) -> bool:
        """Whether this is the master, and a worker serves."""
        return self._is_master() and any(map(_serves, self.WORKERS.values()))

    def _try_later(self, message: str, why: object) -> None:
        self._not_before = time.monotonic() + PAUSE
        self.log.error(f"{message}; the others keep serving, and it will be retried", why)


def _serves(worker: Any) -> bool:
    """Whether its loop runs. A heartbeat file has the wall-clock time until the worker's loop
    writes the monotonic time, which is less."""
    return bool(worker.tmp.last_update() <= time.monotonic())


def install() -> None:
    """Make `gunicorn` use LastingArbiter."""
    base.Arbiter = LastingArbiter
