"""Values with a lifetime in Redis; in the instance's store while Redis is unavailable."""

from app.state.instance_store import InstanceStore
from app.state.redis_link import RedisLink, RedisUnavailable

#: Seconds for which a value that is handed over is also in the instance's store.
HANDOVER = 5.0


class SharedValues:
    """Values by name. No operation raises: this is a cache, and a failure is a miss."""

    def __init__(self, link: RedisLink, store: InstanceStore) -> None:
        self._link = link
        self._store = store
        #: Whether the last read from Redis failed.
        self.is_blind = False

    def get(self, name: str) -> bytes | None:
        """Return the value from Redis; from the instance's store while Redis is unavailable."""
        try:
            value: bytes | None = self._link.call(lambda: self._link.client.get(name))
        except RedisUnavailable:
            self.is_blind = True
            return self._store.get_value(name)
        self.is_blind = False
        return value

    def set(self, name: str, value: bytes, seconds: float) -> bool:
        """Keep a value in Redis; in the store while it is unavailable, and return False."""
        try:
            milliseconds = max(1, int(seconds * 1000))
            self._link.call(lambda: self._link.client.set(name, value, px=milliseconds))
        except RedisUnavailable:
            self._store.set_value(name, value, seconds)
            return False
        return True

    def forget(self, name: str) -> None:
        """Delete a value."""
        try:
            self._link.call(lambda: self._link.client.delete(name))
        except RedisUnavailable:
            self._store.forget(name)

    def hand_over(self, name: str, value: bytes, seconds: float) -> None:
        """Keep a value so that this instance's workers find it even if Redis loses the command."""
        self._store.set_value(name, value, min(seconds, HANDOVER))
        self.set(name, value, seconds)

    def get_handed_over(self, name: str) -> bytes | None:
        """Return the value from Redis, else one that this instance has just handed over."""
        return self.get(name) or self._store.get_value(name)
