"""Raise the limit of open files (`ulimit -n`) to what MAX_CONNECTIONS needs.

The usual one for a service or a login is 1024, which any process may raise up to the hard limit, as
other servers do. A worker without a free descriptor accepts no connection, health checks included,
before MAX_CONNECTIONS makes it close the connections that have waited the longest.
"""

import logging
import resource
from collections.abc import MutableMapping
from contextlib import suppress

log = logging.getLogger("hokusai.instance")

#: Files that a worker opens besides connections: logs, the instance's, Redis, the auth service.
OTHERS = 100

#: Files per client connection: it may have one to MLflow, or a temporary file, or briefly both.
EACH = 2

#: The variable, and its minimum.
VARIABLE, FEWEST = "MAX_CONNECTIONS", 10


def make_room(connections: int, environ: MutableMapping[str, str]) -> int:
    """Return how many connections a worker may hold: `connections`, or as many as the hard limit
    allows. The workers inherit the limit, and find that number in the environment."""
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
    """Raise the limit to `wanted` if it is lower, as far as allowed; return it."""
    soft, hard = (
        wanted if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    if soft < wanted and soft < hard:
        with suppress(OSError, ValueError):  # macOS has a lower one that it does not report
            resource.setrlimit(
                resource.RLIMIT_NOFILE,
                (min(wanted, hard), resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            )
            soft = min(wanted, hard)
    return soft
