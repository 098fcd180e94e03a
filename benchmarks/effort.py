"""How much is measured: in full, or quickly to see that it works."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Effort:
    """Sizes are in bytes, times in seconds."""

    rounds: int
    peer_rounds: int  # of the SDK's loop, which takes a peer half a minute
    seconds: float  # of one run of wrk
    settle: float  # before it, unmeasured
    connections: tuple[int, ...]
    steps: int  # of the SDK's loop
    own_cost_rounds: int
    own_cost_seconds: float
    sizes: tuple[int, ...]
    at_once: tuple[int, ...]
    streams_at_once: int
    streams: tuple[int, ...]
    keys: tuple[int, ...]
    key_seconds: float  # a multiple of the 5 s after which a worker looks into Redis again
    instances: tuple[int, ...]


FULL = Effort(
    rounds=3,
    peer_rounds=1,
    seconds=1.0,
    settle=0.3,
    connections=(1, 8, 32),
    steps=200,
    own_cost_rounds=4,
    own_cost_seconds=2.0,
    sizes=(256 * MIB, 1024 * MIB),
    at_once=(1, 8),
    streams_at_once=20,
    streams=(1, 10, 100, 500),
    keys=(10, 1_000, 100_000),
    key_seconds=5.0,
    instances=(1, 2, 3),
)

QUICK = Effort(
    rounds=1,
    peer_rounds=1,
    seconds=0.3,
    settle=0.1,
    connections=(1, 8),
    steps=10,
    own_cost_rounds=1,
    own_cost_seconds=0.3,
    sizes=(32 * MIB, 64 * MIB),
    at_once=(1, 4),
    streams_at_once=5,
    streams=(1, 10, 50),
    keys=(10, 1_000),
    key_seconds=0.5,
    instances=(1, 2),
)
