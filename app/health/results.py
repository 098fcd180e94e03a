"""The last result of each check, shared by the workers of this instance, and who probes next.

However often health is requested, and on how many workers: an instance probes a part once in
HEALTH_CACHE_TTL, since only one request gets the claim to probe. That request waits for the
result, for HEALTH_TIMEOUT and a quarter of a second at most. All others get the previous result,
unless it is too old. A check that hangs delays no other check.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from app.health.diagnosis import DEGRADED, HEALTHY, UNHEALTHY, Finding, bad
from app.health.faults import fault
from app.state.instance_store import InstanceStore

log = logging.getLogger("hokusai.health")

#: Seconds to wait beyond HEALTH_TIMEOUT: a check that fails in time should say why.
GRACE = 0.25

#: Threads of one check that may hang at once in a worker; beyond that it is not repeated.
MOST_HANGING = 4

#: The part of HEALTH_TIMEOUT beyond which a response is slow.
SLOW = 0.75

#: The result of a check that still waits for others of its line.
WAITING = bad(DEGRADED, fault("check.waiting"), "")

#: Seconds for which a result is remembered, so that a change is noticed.
KEPT = 86_400.0


@dataclass(frozen=True, slots=True)
class Question:
    """How to probe a part, and the message where it neither answers nor fails. Questions of one
    `line` run one after the other; `note` is added where the part is slow."""

    ask: Callable[[], Finding]
    silence: str = str(fault("check.failed"))
    line: str = ""
    logged: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One result: healthy, degraded or unhealthy, how long it took, what it means. `at` is in
    seconds of this machine's monotonic clock, `worker` the process that probed."""

    status: str
    latency_ms: float
    message: str
    detail: str
    at: float
    worker: int

    @property
    def age(self) -> float:
        """Seconds since the probe."""
        return time.monotonic() - self.at

    def public(self) -> dict[str, Any]:
        """The fields that anybody may see."""
        return {"status": self.status, "latency_ms": self.latency_ms, "message": self.message}

    def detailed(self) -> dict[str, Any]:
        """The fields for callers with a key."""
        more = {"detail": self.detail, "age_s": round(self.age, 1), "asked_by_worker": self.worker}
        return self.public() | more


class SharedResults:
    """Results by name. `ttl` (HEALTH_CACHE_TTL) and `timeout` (HEALTH_TIMEOUT) are in seconds."""

    def __init__(
        self,
        store: InstanceStore,
        questions: Mapping[str, Question],
        *,
        ttl: float,
        timeout: float,
    ) -> None:
        self._store = store
        self._questions = questions
        self._ttl = ttl
        self._timeout = timeout
        self._longest = timeout + GRACE
        self._guard = threading.Lock()
        self._hanging: Counter[str] = Counter()
        #: When each running question began; None for those that wait in their line.
        self._in_line: dict[str, float | None] = {}

    def of(self, *names: str) -> dict[str, Check]:
        """The results of these checks. Outdated ones are probed again: lines side by side, the
        questions of one line one after the other."""
        began = time.monotonic()
        before = {name: self._last(name) for name in names}
        asking = [name for name in names if self._claims(name)]
        lines: dict[str, list[str]] = {}
        for name in asking:
            lines.setdefault(self._questions[name].line or name, []).append(name)
        for line in lines.values():
            self._begin(line)
        return {name: self._result(name, before[name], began, name in asking) for name in names}

    def _claims(self, name: str) -> bool:
        """Whether the result is outdated and this request is the one to probe."""
        if self._is_fresh(name) or not self._store.claim(_claim(name), self._line_time(name)):
            return False
        if self._is_fresh(name):  # another worker was faster
            self._store.forget(_claim(name))
            return False
        return True

    def _line_time(self, name: str) -> float:
        """How many seconds the whole line of a question can take."""
        line = self._questions[name].line
        length = sum(one.line == line for one in self._questions.values()) if line else 1
        return self._longest * length

    def _is_fresh(self, name: str) -> bool:
        last = self._last(name)
        return last is not None and last.age < self._ttl

    def _result(self, name: str, before: Check | None, began: float, asks: bool) -> Check:
        """At once where another request probes and the previous result will do; else a newer result
        than the previous one, or a failure if none comes in time."""
        if not asks and before and before.age < 2 * self._ttl + self._longest:
            return self._last(name) or before
        if newer := self._wait_for_newer(name, before, began):
            return newer
        if self._is_late(name, began):
            longest = 2 * self._ttl + self._line_time(name)
            return before if before and before.age < longest else _made(WAITING, began)
        silent = self._silent(name, began)
        return self._keep(name, silent) if asks else before or silent  # the prober has died

    def _wait_for_newer(self, name: str, before: Check | None, began: float) -> Check | None:
        """A result that is newer than `before`, within the timeout; None if none comes."""
        pause = 0.002
        while True:
            last = self._last(name)
            if last and (before is None or last.at > before.at):
                return last
            if time.monotonic() > began + self._longest:
                return None
            time.sleep(pause)
            pause = min(1.5 * pause, 0.05)

    def _is_late(self, name: str, began: float) -> bool:
        """Whether a question had to wait for others of its line, and has time left."""
        if name not in self._in_line:
            return False
        started = self._in_line[name]
        return started is None or started > began + GRACE

    def _begin(self, names: list[str]) -> None:
        """Starts a thread that asks these in turn, unless too many such threads hang."""
        first = names[0]
        with self._guard:
            if self._hanging[first] >= MOST_HANGING:
                return
            self._hanging[first] += 1
            self._in_line.update(dict.fromkeys(names))
        threading.Thread(
            target=self._ask_all, args=(names,), name=f"ask-{first}", daemon=True
        ).start()

    def _ask_all(self, names: list[str]) -> None:
        try:
            for name in names:
                self._in_line[name] = time.monotonic()
                self._ask(name)
                self._in_line.pop(name, None)
        finally:
            with self._guard:
                self._hanging[names[0]] -= 1

    def _ask(self, name: str) -> None:
        began = time.monotonic()
        question = self._questions[name]
        try:
            found = question.ask()
        except Exception as why:  # a defect of the check
            log.error("the check %s itself failed", name, exc_info=why)
            found = bad(UNHEALTHY, fault("check.failed"), repr(why))
        if found.status == HEALTHY and time.monotonic() - began >= SLOW * self._timeout:
            # A slow success predicts failure.
            slow = f"{fault('check.slow', message=found.message)}{question.note}"
            found = found._replace(status=DEGRADED, message=slow)
        self._keep(name, _made(found, began))
        self._store.forget(_claim(name))

    def _silent(self, name: str, began: float) -> Check:
        detail = f"no response within {self._longest:g} s; the check may still be running"
        return _made(Finding(UNHEALTHY, self._questions[name].silence, detail), began)

    def _last(self, name: str) -> Check | None:
        """The newest result of any worker; not one from before a reboot."""
        text = self._store.get_value(f"health:{name}")
        last = Check(**orjson.loads(text)) if text else None
        return last if last and last.age >= 0 else None

    def _keep(self, name: str, check: Check) -> Check:
        """Shares a result, and logs it if the status has changed."""
        before = self._last(name)
        self._store.set_value(f"health:{name}", orjson.dumps(asdict(check)), KEPT)
        was = before.status if before else HEALTHY
        if self._questions[name].logged and was != check.status:
            fields = {"check": name, "status": check.status, "was": was, "detail": check.detail}
            level = logging.INFO if check.status == HEALTHY else logging.WARNING
            log.log(level, "%s: %s", name, check.message, extra={"fields": fields})
        return check


def _made(found: Finding, began: float) -> Check:
    now = time.monotonic()
    elapsed = round((now - began) * 1000, 1)
    return Check(found.status, elapsed, found.message, found.detail, now, os.getpid())


def _claim(name: str) -> str:
    return f"health-claim:{name}"
