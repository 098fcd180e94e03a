"""What the proxy has to reach: each goal with its target, and what a run measured. Nothing rounded
in its favour; a goal that could not be measured says so."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from benchmarks import artifacts, mlflow_calls, own_cost
from benchmarks.contestants import DIRECT, NGINX, PEERS, PER_REQUEST, POOLED, PROXY
from benchmarks.growth import INSTANCES, KEYS, STREAMS, allowed
from benchmarks.results import Results, divided, worst
from benchmarks.rounds import shown

AT_MOST, AT_LEAST, BELOW = "≤", "≥", "<"


@dataclass(frozen=True)
class Goal:
    """`measured` is compared with `target`; None if it could not be measured."""

    what: str
    sign: str
    target: float
    measured: float | None
    remark: str = ""

    @property
    def held(self) -> bool | None:
        """Whether it is reached; None if it could not be measured."""
        if self.measured is None:
            return None
        if self.sign == BELOW:
            return self.measured < self.target
        at_most = self.measured <= self.target
        return at_most if self.sign == AT_MOST else self.measured >= self.target

    @property
    def mark(self) -> str:
        """✓, ✗, or – where it could not be measured."""
        return {True: "✓", False: "✗", None: "–"}[self.held]

    def as_json(self) -> dict[str, object]:
        """For machines."""
        told = {"what": self.what, "sign": self.sign, "target": self.target}
        return told | {"measured": self.measured, "held": self.held, "remark": self.remark}


# --- a: a real MLflow ----------------------------------------------------------------------------


def of_mlflow(results: Results) -> Iterator[Goal]:
    """Faster through the proxy than without it."""
    for call in mlflow_calls.CALLS:
        ratio = results.ratio(mlflow_calls.case_of(call, 1), "p50_ms", PROXY, DIRECT)
        yield Goal(f"{call.name}: p50 ÷ direct, 1 connection", AT_MOST, 0.35, ratio)
    for call in mlflow_calls.CALLS:
        ratio = results.ratio(mlflow_calls.case_of(call, 8), "rps", PROXY, DIRECT)
        yield Goal(f"{call.name}: requests/s ÷ direct, 8 connections", AT_LEAST, 1.2, ratio)
    loop = results.ratio(mlflow_calls.SDK_LOOP, "seconds", PROXY, DIRECT)
    yield Goal("the SDK's loop: time ÷ direct", AT_MOST, 0.4, loop)
    for peer in PEERS:
        yield _beats(results, peer)


def _beats(results: Results, peer: str) -> Goal:
    """The case in which the proxy does worst beside a peer, of all in the table."""
    found = worst(_beside(results, peer))
    remark, ratio = found or ("not measured", None)
    return Goal(f"beats {peer}: worst ratio", BELOW, 1.0, ratio, remark)


def _beside(results: Results, peer: str) -> Iterator[tuple[str, float | None]]:
    for case in results.cases():
        yield f"{case}, p50", results.ratio(case, "p50_ms", PROXY, peer)
        yield f"{case}, requests/s", results.ratio(case, "rps", peer, PROXY)
        yield case, results.ratio(case, "seconds", PROXY, peer)


# --- b: the proxy's own cost ---------------------------------------------------------------------


def of_own_cost(results: Results) -> Iterator[Goal]:
    """The leanest of its kind."""
    busy = own_cost.BUSY
    for peer, target in ((POOLED, 0.4), (PER_REQUEST, 0.03)):
        ratio = results.ratio(busy, "cpu_us", PROXY, peer)
        yield Goal(f"CPU a request ÷ {peer}", AT_MOST, target, ratio)
    yield Goal(
        "requests/s ÷ nginx, a core each",
        AT_LEAST,
        0.12,
        results.ratio(busy, "rps", PROXY, NGINX),
        _beside_nginx(results),
    )


def _beside_nginx(results: Results) -> str:
    """Where wrk and the upstream could not keep nginx busy, the rate flatters the proxy."""
    used, cpu = results.median(own_cost.BUSY, NGINX, "cores"), _cpu_beside_nginx(results)
    if used is None or cpu is None:
        return ""
    return f"nginx used {shown(used)} of its core; by CPU a request it is {cpu:.3f}"


def _cpu_beside_nginx(results: Results) -> float | None:
    return results.ratio(own_cost.BUSY, "cpu_us", NGINX, PROXY)


# --- c: artifacts --------------------------------------------------------------------------------


def of_artifacts(results: Results) -> Iterator[Goal]:
    """No slower than direct, in bounded memory."""
    for case in results.cases():
        if case.startswith(f"{artifacts.MLFLOW}: "):
            ratio = results.ratio(case, "mb_per_s", PROXY, DIRECT)
            yield Goal(f"{case} ÷ direct", AT_LEAST, 0.95, ratio)
    for case in results.cases():
        if case.startswith(f"{artifacts.NOTHING}: ") and DIRECT not in results.contestants(case):
            grown = results.median(case, PROXY, "growth_mib_each")
            name = case.partition(": ")[2]
            yield Goal(f"{name}: memory, MiB a stream", BELOW, 2.0, grown)


# --- d: growth -----------------------------------------------------------------------------------


def of_growth(results: Results) -> Iterator[Goal]:
    """Flat in keys, linear in streams, more with each instance."""
    numbers = sorted(results.contestants(KEYS), key=_number)
    for keys in numbers[1:]:
        ratio = results.ratio(KEYS, "cpu_us", keys, numbers[0])
        yield Goal(f"{keys} known keys: CPU a request ÷ that of {numbers[0]}", AT_MOST, 1.15, ratio)
    streams = sorted(results.contestants(STREAMS), key=_number)
    if len(streams) > 2:
        _, some, *_, most = streams  # a single one is hardly above the noise
        ratio = results.ratio(STREAMS, "cpu_ms_each", most, some)
        yield Goal(f"{most} streams: CPU each ÷ that of {some}", AT_MOST, 1.15, ratio)
    for count in sorted(results.contestants(INSTANCES), key=_number)[1:]:
        yield _instances(results, count)


def _instances(results: Results, count: str) -> Goal:
    """What so many instances do, beside what they could."""
    one, everything = (results.median(INSTANCES, "1", m) for m in ("rps", "everything_us"))
    rps = results.median(INSTANCES, count, "rps")
    could = allowed(one, everything, _number(count)) if one and everything else None
    remark = f"{shown(divided(rps, one))} × one; the cores allow {shown(divided(could, one))} ×"
    what = f"{count} instances: requests/s ÷ what the cores allow"
    return Goal(what, AT_LEAST, 0.85, divided(rps, could), remark)


def _number(name: str) -> int:
    return int(name.replace(",", ""))


#: By part.
GOALS: dict[str, Callable[[Results], Iterable[Goal]]] = {
    "a": of_mlflow,
    "b": of_own_cost,
    "c": of_artifacts,
    "d": of_growth,
}
