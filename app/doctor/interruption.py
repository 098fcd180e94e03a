"""Ctrl-C and SIGTERM: stop the steps, not the cleaning up."""

import signal
from types import FrameType, TracebackType

from app.doctor.steps import Steps


class Interruption:
    """Around the steps: `with Interruption(steps): run(…)`.

    A signal ends the block, wherever it strikes, and makes the run a failed one. What follows the
    block is for cleaning up: there the first signal is only noted, the second one ends that too.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._tolerated = 0

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._arrived)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._tolerated = 1
        return kind is KeyboardInterrupt

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        self._steps.interrupted = True  # remembered even if a library swallows the exception
        if not self._tolerated:
            raise KeyboardInterrupt
        self._tolerated -= 1
