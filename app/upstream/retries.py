"""When a request to MLflow goes once more, and how long it waits before.

Exponential back-off with full jitter (the wait is anything between nothing and the back-off),
within a deadline, and within a budget: in an outage retries would multiply the traffic just when
MLflow has the least to spare, so at most a tenth of the requests may be repeated.
"""

import random
import threading
import time

from app.observability.metrics import RETRIES

#: Seconds: the first back-off, and the longest; it doubles in between. With these, what the budget
#: grants out of the blue lasts about as long as the deadline: a restart of MLflow.
FIRST, LONGEST = 0.05, 2.0

#: Times that one request goes out, the first included. A failed connect sends nothing, and is not
#: counted: only deadline and budget end those.
TRIES = 3

#: Retries that are granted out of the blue, and per request made.
BUDGET, BUDGET_PER_REQUEST = 10.0, 0.1


class Retries:
    """The rule for this worker's retries; shared by its threads."""

    def __init__(self, deadline: float) -> None:
        """`deadline` is in seconds from a request's first try."""
        self._deadline = deadline
        self._budget = BUDGET
        self._guard = threading.Lock()

    def request_made(self) -> None:
        """One more request was made, which adds to the budget."""
        with self._guard:
            self._budget = min(BUDGET, self._budget + BUDGET_PER_REQUEST)

    def again(self, tries: int, began: float, was_sent: bool) -> bool:
        """Whether a request that failed may go once more; if so, after the wait that this makes.

        `tries` is how often it was tried so far, `began` when it first was (monotonic seconds);
        `was_sent`: it went out, so that MLflow may have worked for it.
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
