"""gunicorn's hooks: the application's callbacks, and a guard so that no hook ends a process.

An exception in a hook ends the master (`child_exit`, for one) or keeps a worker from booting, which
ends the master, too. Nothing that hooks do is essential.
"""

import functools
import logging
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("hokusai.instance")


#: Header fields and body of an error page; None for JSON. Called with the partial request (as a
#: WSGI environment), its path, the status, the message and the request id.
ErrorPage = Callable[[Mapping[str, Any], str, int, str, str], tuple[dict[str, str], bytes] | None]

NAME = "hokusai"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHooks:
    """The server's callbacks into its application. `start` and `stop` surround the life of a
    worker; `drain` begins a stop; the counters take a status and a reason."""

    start: Callable[[], None]
    stop: Callable[[], None]
    drain: Callable[[], None]
    count_refused: Callable[[int], None]
    count_dropped: Callable[[str], None]
    error_page: ErrorPage

    def attach(self, extensions: MutableMapping[str, Any]) -> None:
        """Store the hooks in an application's `extensions`, where hooks_of() finds them."""
        extensions[NAME] = self


def hooks_of(worker: object) -> WorkerHooks | None:
    """Return the hooks of a worker's application; None before it is loaded."""
    application = getattr(worker, "wsgi", None)
    hooks: WorkerHooks | None = getattr(application, "extensions", {}).get(NAME)
    return hooks


def harmless(hook: Callable[..., None]) -> Callable[..., None]:
    """Wrap the hook: log its errors instead of raising them."""

    @functools.wraps(hook)  # gunicorn checks the number of parameters
    def guarded(*arguments: Any) -> None:
        try:
            hook(*arguments)
        except Exception:
            log.exception("the gunicorn hook %s failed", hook.__name__)

    return guarded
