"""The last result of each check, shared by the workers of this instance, and who asks next.

However hard the probes come, and on how many workers: a part is asked once in HEALTH_CACHE_TTL by
an instance, since one probe takes the claim to ask and the others do not get it. The probe that
asks waits for the answer, at most HEALTH_TIMEOUT and a quarter of a second; all others are told
the result before, unless that is too old. A question that hangs holds nobody for longer, and
nothing that is asked beside it.
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

from app.health import messages
from app.health.diagnosis import DEGRADED, HEALTHY, UNHEALTHY, Finding
from app.state.instance_store import InstanceStore

log = logging.getLogger("hokusai.health")

#: Seconds that a probe waits beyond HEALTH_TIMEOUT: a question that fails in time should say why.
GRACE = 0.25

#: Threads of one question that may hang at once in a worker; then it is given up, not asked again.
MOST_HANGING = 4

#: The part of HEALTH_TIMEOUT beyond which an answer is slow.
SLOW = 0.75

#: Of a question whose turn has not come.
IN_LINE = Finding(DEGRADED, messages.IN_LINE)

#: Seconds for which a result is remembered, so that a change is noticed.
KEPT = 86_400.0


@dataclass(frozen=True, slots=True)
class Question:
    """How a part is asked, and what is said of it where that gives no answer at all, or a slow one.
    Questions of one `line` are asked one after the other."""

    ask: Callable[[], Finding]
    silence: str
    logged: bool = True
    line: str = ""
    slow: str = messages.SLOW


@dataclass(frozen=True, slots=True)
class Check:
    """One result: healthy, degraded or unhealthy, how long it took, what it means. `at` is in
    seconds of this machine's monotonic clock, `worker` the process that asked."""

    status: str
    latency_ms: float
    message: str
    detail: str
    at: float
    worker: int

    @property
    def age(self) -> float:
        """Seconds since it was found."""
        return time.monotonic() - self.at

    def public(self) -> dict[str, Any]:
        """The fields that anybody may see."""
        return {"status": self.status, "latency_ms": self.latency_ms, "message": self.message}

    def detailed(self) -> dict[str, Any]:
        """The fields for whoever holds a key."""
        more = {"detail": self.detail, "age_s": round(self.age, 1), "asked_by_worker": self.worker}
        return self.public() | more


class SharedResults:
    """Results by name. `ttl` (HEALTH_CACHE_TTL) and `timeout` (HEALTH_TIMEOUT) are in seconds."""

    def __init__(
        self, store: InstanceStore, questions: Mapping[str, Question], ttl: float, timeout: float
    ) -> None:
        self._store = store
        self._questions = questions
        self._ttl = ttl
        self._timeout = timeout
        self._patience = timeout + GRACE
        self._guard = threading.Lock()
        self._hanging: Counter[str] = Counter()
        self._own: dict[str, Check] = {}
        #: When the questions under way were begun; None for those whose turn has not come.
        self._in_line: dict[str, float | None] = {}

    def of(self, *names: str) -> dict[str, Check]:
        """The results of these checks; those that are too old are worked out, at the same time but
        for those of one line."""
        began = time.monotonic()
        before = {name: self._last(name) for name in names}
        asking = [name for name in names if self._takes_its_turn(name)]
        lines: dict[str, list[str]] = {}
        for name in asking:
            lines.setdefault(self._questions[name].line or name, []).append(name)
        for line in lines.values():
            self._begin(line)
        return {name: self._result(name, before[name], began, name in asking) for name in names}

    def _takes_its_turn(self, name: str) -> bool:
        """Whether the result is too old and this probe is the one to ask."""
        longest = self._patience * self._length_of_line(name)
        if self._is_fresh(name) or not self._store.claim(_claim(name), longest):
            return False
        if self._is_fresh(name):  # somebody was quicker
            self._store.forget(_claim(name))
            return False
        return True

    def _length_of_line(self, name: str) -> int:
        line = self._questions[name].line
        return sum(one.line == line for one in self._questions.values()) if line else 1

    def _is_fresh(self, name: str) -> bool:
        last = self._last(name)
        return last is not None and last.age < self._ttl

    def _result(self, name: str, before: Check | None, began: float, asks: bool) -> Check:
        """The result: at once where it is fresh, or where another probe asks and the one before
        will do; else a newer one than before, or that none comes in time."""
        if not asks and before and before.age < 2 * self._ttl + self._patience:
            return self._last(name) or before
        pause = 0.002
        while True:
            last = self._last(name)
            if last and (before is None or last.at > before.at):
                return last
            if time.monotonic() > began + self._patience:
                break
            time.sleep(pause)
            pause = min(1.5 * pause, 0.05)
        if self._comes_late(name, began):
            longest = 2 * self._ttl + self._patience * self._length_of_line(name)
            return before if before and before.age < longest else self._made(IN_LINE, began)
        silent = self._silent(name, began)
        return self._keep(name, silent) if asks else before or silent  # the one that asked has died

    def _comes_late(self, name: str, began: float) -> bool:
        """Whether a question has had to wait for others of its line, and has time left."""
        if name not in self._in_line:
            return False
        turn = self._in_line[name]
        return turn is None or turn > began + GRACE

    def _begin(self, names: list[str]) -> None:
        """Asks one after the other, in a thread: nobody has to wait for it to its end."""
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
        try:
            found = self._questions[name].ask()
        except Exception as why:  # a check that itself fails is a failed check
            log.error("the check %s itself failed", name, exc_info=why)
            found = Finding(UNHEALTHY, messages.FAILED, repr(why))
        slow = self._questions[name].slow
        self._keep(name, self._made(_slow(found, began, self._timeout, slow), began))
        self._store.forget(_claim(name))

    def _silent(self, name: str, began: float) -> Check:
        message = self._questions[name].silence
        detail = f"no answer within {self._patience:g} s; the question may still be under way"
        return self._made(Finding(UNHEALTHY, message, detail), began)

    @staticmethod
    def _made(found: Finding, began: float) -> Check:
        now = time.monotonic()
        elapsed = round((now - began) * 1000, 1)
        return Check(found.status, elapsed, found.message, found.detail, now, os.getpid())

    def _last(self, name: str) -> Check | None:
        """The newest result: this worker's own while it is fresh, else any worker's."""
        own = self._own.get(name)
        if own and own.age < self._ttl:
            return own
        if text := self._store.get_value(f"health:{name}"):
            shared = Check(**orjson.loads(text))
            if shared.age >= 0 and (own is None or shared.at >= own.at):  # not of before a reboot
                self._own[name] = own = shared
        return own

    def _keep(self, name: str, check: Check) -> Check:
        """Shares a result, and logs it where it is another than the one before."""
        before = self._last(name)
        self._own[name] = check
        self._store.set_value(f"health:{name}", orjson.dumps(asdict(check)), KEPT)
        was = before.status if before else HEALTHY
        if self._questions[name].logged and (was != check.status):
            fields = {"check": name, "status": check.status, "was": was, "detail": check.detail}
            level = logging.INFO if check.status == HEALTHY else logging.WARNING
            log.log(level, "%s: %s", name, check.message, extra={"fields": fields})
        return check


def _claim(name: str) -> str:
    return f"health-claim:{name}"


def _slow(found: Finding, began: float, timeout: float, message: str) -> Finding:
    """A good answer that was slow is one of something that will soon give none."""
    if found.status != HEALTHY or time.monotonic() - began < SLOW * timeout:
        return found
    return found._replace(status=DEGRADED, message=message.format(message=found.message))
