"""The limit of open files (`ulimit -n`), raised to what MAX_CONNECTIONS needs.

The usual one for a service or a login is 1024, of which any process may make more by itself (up to
the hard limit), as other servers do. A worker that has none left accepts nobody, health checks
included, before MAX_CONNECTIONS makes it close the connections that it has waited for the longest.
"""

import logging
import resource
from collections.abc import MutableMapping
from contextlib import suppress

log = logging.getLogger("hokusai.instance")

#: Files that a worker opens beside connections: logs, the instance's, Redis, the auth service.
OTHERS = 100

#: A connection of a client may have one to MLflow, or a temporary file, or both for a moment.
EACH = 2

#: The variable, and the fewest connections that it may say.
VARIABLE, FEWEST = "MAX_CONNECTIONS", 10


def make_room(connections: int, environ: MutableMapping[str, str]) -> int:
    """How many connections a worker may hold: so many, or as many as the hard limit has files for.
    The workers, which inherit the limit, find that number in the environment."""
    wanted = EACH * connections + OTHERS
    soft = _raised_to(wanted)
    if soft >= wanted:
        return connections
    possible = min(connections, max(FEWEST, (soft - OTHERS) // EACH))
    log.warning(
        "the limit of open files (ulimit -n) is %d: a worker holds %d connections, not %d "
        "(%s); raise it to %d",
        soft,
        possible,
        connections,
        VARIABLE,
        wanted,
    )
    environ[VARIABLE] = str(possible)
    return possible


def _raised_to(wanted: int) -> int:
    """The limit, raised to this number if it was lower and as far as it may be."""
    soft, hard = (
        wanted if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    if soft < wanted and soft < hard:
        with suppress(OSError, ValueError):  # macOS has a lower one that it does not tell
            resource.setrlimit(
                resource.RLIMIT_NOFILE,
                (min(wanted, hard), resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            )
            soft = min(wanted, hard)
    return soft
