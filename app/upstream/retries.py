"""Decide whether to retry a request to MLflow, and wait before the retry.

Exponential back-off with full jitter (the wait is random between zero and the back-off), within a
deadline and a budget. In an outage, retries would multiply the traffic when MLflow has the least
capacity, so at most a tenth of the requests may be retried.
"""

import random
import threading
import time

from app.observability.metrics import RETRIES

#: Seconds: the first and the longest back-off; it doubles in between. With these, the initial
#: budget lasts about as long as the deadline: a restart of MLflow.
FIRST, LONGEST = 0.05, 2.0

#: Attempts per request, the first included. A failed connect sends nothing, and is not counted:
#: only deadline and budget limit it.
TRIES = 3

#: The initial budget, also its maximum, and its increase per request.
BUDGET, BUDGET_PER_REQUEST = 10.0, 0.1


class Retries:
    """The retry policy of this worker; shared by its threads."""

    def __init__(self, deadline: float) -> None:
        """`deadline` is in seconds from a request's first attempt."""
        self._deadline = deadline
        self._budget = BUDGET
        self._guard = threading.Lock()

    def request_made(self) -> None:
        """Add one request's share to the budget."""
        with self._guard:
            self._budget = min(BUDGET, self._budget + BUDGET_PER_REQUEST)

    def again(self, tries: int, began: float, was_sent: bool) -> bool:
        """Return whether to retry a failed request, after waiting for the back-off.

        `tries` counts the attempts so far; `began` is the first one (monotonic seconds);
        `was_sent`: the request was sent, so MLflow may have worked on it.
        """
        if was_sent and tries >= TRIES:
            return False
        remaining = began + self._deadline - time.monotonic()
        if remaining <= 0 or not self._take():
            return False
        RETRIES.inc()
        backoff = min(LONGEST, FIRST * 2 ** (tries - 1))
        time.sleep(min(remaining, random.uniform(0, backoff)))
        return True

    def _take(self) -> bool:
        with self._guard:
            if self._budget < 1:
                return False
            self._budget -= 1
            return True
