"""gunicorn's hooks: none of them may end a process.

An exception in a hook ends the master (`child_exit`, for one) or keeps a worker from starting, and
a worker that does not start ends the master too. What hooks do is a convenience.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("hokusai.instance")


def harmless(hook: Callable[..., None]) -> Callable[..., None]:
    """The same hook, which logs what goes wrong in it."""

    @functools.wraps(hook)  # gunicorn counts the parameters
    def guarded(*arguments: Any) -> None:
        try:
            hook(*arguments)
        except Exception:
            log.exception("the gunicorn hook %s failed", hook.__name__)

    return guarded
