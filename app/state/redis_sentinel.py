"""The master that Sentinels name: redis-py's clients for it, and for them.

While no Sentinel responds, new connections go to the last known master: it may well be up.
"""

from typing import Any

import redis
from redis.sentinel import MasterNotFoundError, Sentinel

from config.redis_url import RedisUrl


def master_of(address: RedisUrl, options: dict[str, Any]) -> Any:
    """Return a client for the master. Sentinels have their own user and password."""
    secrets = {"username": address.sentinel_username, "password": address.sentinel_password}
    if address.is_tls:
        options["ssl"] = True
    of_sentinels = options | secrets
    sentinel = _Sentinels(  # type: ignore[no-untyped-call]
        address.hosts, sentinel_kwargs=of_sentinels, **options
    )
    return sentinel.master_for(  # type: ignore[no-untyped-call]
        address.service, redis_class=Master, db=address.database
    )


class Master(redis.Redis):
    """redis-py's client for the master."""

    def check_sentinels(self) -> None:
        """Raise MasterAlone if the Sentinels name no master, and this is the last known one."""
        pool: Any = self.connection_pool
        try:
            pool.sentinel_manager.ask(pool.service_name)
        except redis.ConnectionError as why:
            raise MasterAlone("the master answers, but no Sentinel names it") from why


class _Sentinels(Sentinel):
    """redis-py's Sentinels, with an error for each reason why none helps."""

    _last: tuple[str, int] | None = None

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the master's address, for each new connection; the last known one if no Sentinel
        responds. Raises as ask()."""
        try:
            self._last = self.ask(service_name)
        except SentinelFailed:
            if self._last is None:
                raise
        return self._last

    def ask(self, service_name: str) -> tuple[str, int]:
        """Return the master's address. Raises SentinelFailed if no Sentinel responds, NoSuchService
        if none knows the name, MasterNotFoundError if the master is down."""
        failure: Exception | None = None
        answered = known = False
        for sentinel in list(self.sentinels):
            try:
                masters: Any = sentinel.sentinel_masters()
            except (redis.RedisError, OSError) as why:
                failure = _more_telling(failure, why)
                continue
            answered = True
            state = masters.get(service_name)
            known = known or state is not None
            if state and self.check_master_state(  # type: ignore[no-untyped-call]
                state, service_name
            ):
                others = (one for one in self.sentinels if one is not sentinel)
                self.sentinels = [sentinel, *others]  # the next query begins with this one
                return state["ip"], state["port"]
        if failure is not None and not answered:
            raise SentinelFailed(str(failure)) from failure
        if not known:
            raise NoSuchService(f"the Sentinels know no service {service_name}")
        raise MasterNotFoundError(f"the Sentinels know of no {service_name} that is up")


class SentinelFailed(redis.ConnectionError):
    """No Sentinel responds to the query for the master; the cause is one Sentinel's error."""


class NoSuchService(redis.ConnectionError):
    """The Sentinels respond, and none knows the service."""


class MasterAlone(redis.ConnectionError):
    """The master executes commands, and its Sentinels name none; the cause says why."""


def _more_telling(one: Exception | None, other: Exception) -> Exception:
    """Return the failure of the Sentinel that responded, if either did."""
    silent = (redis.TimeoutError, OSError)
    refused = isinstance(one, redis.AuthenticationError | redis.ResponseError)
    return one if one is not None and (refused or isinstance(other, silent)) else other
