"""Downloads that MLflow breaks off at random bytes: none may look complete to the client.

Some are sized, some chunked; they end with a FIN or a RST; the client speaks HTTP/1.0 or 1.1. One
in ten is not cut, as a check of the check: those must come whole.
"""

import random
from collections import Counter
from dataclasses import dataclass

from tests.drills.load import in_parallel
from tests.drills.report import Row
from tests.drills.stage import Stage
from tests.upstreams import Answer, Received, Upstream, chunked, close, reset, send, sized
from tests.wire import Response, Wire, bearer, request

ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/weights.bin"

#: What an HTTP client may be: its version, and what it says about its connection.
CLIENTS = (
    ("1.1", ()),
    ("1.1", ("Connection: close",)),
    ("1.0", ()),
    ("1.0", ("Connection: keep-alive",)),
)


@dataclass(frozen=True)
class Plan:
    """What is done to one download; the same for the same number and seed."""

    sized: bool
    body: bytes
    sent: bytes
    is_cut: bool
    with_reset: bool
    client: tuple[str, tuple[str, ...]]

    @classmethod
    def of(cls, number: int, seed: int) -> "Plan":
        """By chance: what it is, and where it ends."""
        chance = random.Random(f"{seed} {number}")
        pieces = [chance.randbytes(chance.randint(1, 60_000)) for _ in range(chance.randint(1, 5))]
        is_sized = chance.random() < 0.5
        whole = sized(b"".join(pieces)) if is_sized else chunked(*pieces)
        is_cut = number % 10 != 0
        # Without the blank line behind the last chunk the body is whole already (RFC 9112 7.1).
        last = len(whole) - (1 if is_sized else len(b"\r\n0\r\n\r\n"))
        anywhere, at_the_end = chance.randint(0, last), last - chance.randint(0, 9)
        cut = chance.choice((anywhere, anywhere, at_the_end, chance.randint(0, 60)))
        sent = whole[:cut] if is_cut else whole
        with_reset, client = chance.random() < 0.5, chance.choice(CLIENTS)
        return cls(is_sized, b"".join(pieces), sent, is_cut, with_reset, client)

    def answer(self) -> Answer:
        """What MLflow does."""
        if not self.is_cut:
            return Answer(send(self.sent))
        return Answer(send(self.sent), reset() if self.with_reset else close())

    def outcome(self, answer: Response) -> str:
        """What the client took it for: "broken", "error", "complete", or "wrong" bytes."""
        if answer.status != 200:
            return "error" if answer.whole and answer.status == 502 else "broken"
        if not answer.whole:
            return "broken"
        return "complete" if answer.body == self.body else "wrong"


def drill(stage: Stage, cut: int, seed: int = 1, threads: int = 8) -> Row:
    """So many downloads that are cut, and a ninth of that which are not."""
    downloads = cut * 10 // 9 + 1
    key = stage.key()
    with Upstream() as fake:
        fake.answers_by(lambda asked: Plan.of(_number(asked), seed).answer())
        proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, MLFLOW_RETRY_DEADLINE=0)

        def download(number: int) -> tuple[Plan, str]:
            plan = Plan.of(number, seed)
            version, fields = plan.client
            asked = request("GET", f"{ARTIFACT}?n={number}", bearer(key), *fields, version=version)
            with Wire(proxy.url) as wire:
                return plan, plan.outcome(wire.ask(asked))

        seen = in_parallel(download, downloads, threads)
    return _row(seen)


def _number(asked: Received) -> int:
    return int(asked.target.rpartition(b"?n=")[2])


def _row(seen: list[tuple[Plan, str]]) -> Row:
    cut = Counter(outcome for plan, outcome in seen if plan.is_cut)
    uncut = Counter(outcome for plan, outcome in seen if not plan.is_cut)
    framings = Counter(
        f"{'sized' if plan.sized else 'chunked'} to HTTP/{plan.client[0]}"
        for plan, outcome in seen
        if plan.is_cut
    )
    taken = cut["complete"] + cut["wrong"]
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(framings.items()))
    return Row(
        "downloads cut by MLflow",
        "cut at a random byte of head or body, FIN or RST",
        f"{cut.total():,} cut ({kinds}), {uncut.total():,} not cut",
        f"cut: {cut['broken']:,} seen as broken, {cut['error']:,} answered 502, "
        f"**{taken} taken for complete**; not cut: {uncut['complete']:,} complete",
        None,
        facts={
            "no cut download looks complete": taken == 0,
            "all others are complete": uncut["complete"] == uncut.total(),
        },
        numbers={"cut": dict(cut), "uncut": dict(uncut), "framings": dict(framings)},
    )
