"""gunicorn's hooks: what they call in the application, and that none of them may end a process.

An exception in a hook ends the master (`child_exit`, for one) or keeps a worker from starting, and
a worker that does not start ends the master too. What hooks do is a convenience.
"""

import functools
import logging
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("hokusai.instance")


#: Header fields and body of a page; None where JSON is wanted. Called with what came of the request
#: (as a WSGI environment), its path, the status, the message and the request id.
ErrorPage = Callable[[Mapping[str, Any], str, int, str, str], tuple[dict[str, str], bytes] | None]

NAME = "hokusai"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHooks:
    """What the server calls in the application that it serves. `start` and `stop` surround the life
    of a worker; `drain` begins a stop; the counters take a status and a reason."""

    start: Callable[[], None]
    stop: Callable[[], None]
    drain: Callable[[], None]
    count_refused: Callable[[int], None]
    count_dropped: Callable[[str], None]
    error_page: ErrorPage

    def attach(self, extensions: MutableMapping[str, Any]) -> None:
        """Leaves the hooks in an application's `extensions`, where hooks_of() finds them."""
        extensions[NAME] = self


def hooks_of(worker: object) -> WorkerHooks | None:
    """The hooks of the application that a worker has loaded; None while it has loaded none."""
    application = getattr(worker, "wsgi", None)
    hooks: WorkerHooks | None = getattr(application, "extensions", {}).get(NAME)
    return hooks


def harmless(hook: Callable[..., None]) -> Callable[..., None]:
    """The same hook, which logs what goes wrong in it."""

    @functools.wraps(hook)  # gunicorn counts the parameters
    def guarded(*arguments: Any) -> None:
        try:
            hook(*arguments)
        except Exception:
            log.exception("the gunicorn hook %s failed", hook.__name__)

    return guarded
