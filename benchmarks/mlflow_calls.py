"""Part a: calls to a real, stock `mlflow server`: directly, through this proxy, through its peers.

All of them share the cores, as they would on one machine. basic-auth is a server of its own.
"""

import base64
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import requests

from benchmarks import wrk
from benchmarks.bench import Bench
from benchmarks.contestants import (
    BASIC_AUTH,
    DIRECT,
    PEERS,
    PROXY,
    Contestant,
    Ways,
    helpers,
    measured_in,
    ways_to,
)
from benchmarks.machine import Description, core_count
from benchmarks.processes import cores_used, family, wait_until_idle
from benchmarks.results import Goal, Results, table
from devstack.mlflow import BasicAuthMLflow, MLflow
from devstack.server import Server

TITLE = "a real MLflow"

API = "/api/2.0/mlflow"
SDK_LOOP = "SDK loop"

#: A training loop with MLflow's SDK that prints its seconds. What the SDK loads and connects at its
#: first call is done before.
PROGRAM = """
import sys, time, mlflow
mlflow.set_experiment("sdk loop")
began = time.monotonic()
with mlflow.start_run():
    for step in range(int(sys.argv[1])):
        mlflow.log_metric("loss", 1 / (1 + step), step=step)
print(time.monotonic() - began)
"""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

#: Contestants that do not answer each connection in the first run are measured once, for longer.
SLOW = 3

#: Seconds for which MLflow may give no response after many writes at once.
UNWELL = 120.0

#: Runs that runs/search finds.
RUNS = 10

POINT = '"value": 0.25, "timestamp": @, "step": @'
POINTS = ", ".join(f'{{"key": "metric-{number}", {POINT}}}' for number in range(10))

#: Path → body. An @ becomes another number in each request: MLflow keeps a metric's step once.
#: Reads first: after many writes MLflow is slower.
CALLS = {
    "experiments/search": '{"max_results": 100}',
    "runs/search": f'{{"experiment_ids": ["@EXPERIMENT"], "max_results": {RUNS}}}',
    "runs/log-metric": f'{{"run_id": "@RUN", "key": "loss", {POINT}}}',
    "runs/log-batch": f'{{"run_id": "@RUN", "metrics": [{POINTS}],'
    ' "params": [{"key": "rate", "value": "0.1"}, {"key": "depth", "value": "7"}],'
    ' "tags": [{"key": "host", "value": "bench"}]}',
}


def measure(bench: Bench) -> None:
    """All calls at all numbers of connections, then the SDK's loop."""
    ways, mlflows = _ways(bench)
    bench.progress.at("making experiments and runs")
    prepared = {way: _prepare(way) for way in ways.values()}
    wait_for_rest = _at_rest(ways, mlflows)
    for call in CALLS:
        for connections in bench.effort.connections:
            _wait_until_well(ways)
            loads = {way: _load(way, call, connections, *prepared[way]) for way in prepared}
            one = _one(bench.effort.seconds, loads, wait_for_rest)
            bench.alternate(f"{call} × {connections}", ways, bench.effort.rounds, one)
            bench.report(f"{call} × {connections}", "p50_ms", "ms")
    _sdk_loops(bench, ways)


def _ways(bench: Bench) -> tuple[Ways, list[Server]]:
    """(all contestants, the MLflows behind them)."""
    mlflow = MLflow(bench.folder / "mlflow", options=(), settings={})
    basic = BasicAuthMLflow(bench.folder / "basic")
    bench.progress.say("starting MLflow as users run it; it takes half a minute")
    bench.start(mlflow, basic)
    ways = ways_to(bench, mlflow.url, helpers(bench), workers=core_count())
    pair = base64.b64encode(f"admin:{basic.password}".encode()).decode()
    sdk = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": basic.password}
    ways[BASIC_AUTH] = Contestant(basic.url, {"Authorization": f"Basic {pair}"}, sdk)
    return ways, [mlflow, basic]


def _load(way: Contestant, call: str, connections: int, experiment: str, run: str) -> wrk.Load:
    body = CALLS[call].replace("@EXPERIMENT", experiment).replace("@RUN", run)
    headers = {**way.headers, "Content-Type": "application/json"}
    return wrk.Load(f"{way.url}{API}/{call}", connections, body, headers)


def _one(
    seconds: int, loads: Mapping[Contestant, wrk.Load], wait_for_rest: Callable[[], None]
) -> Callable[[Contestant], Mapping[str, float]]:
    """A round of one contestant; the first begins with a run that is not measured."""
    slow: dict[Contestant, bool] = {}

    def one(way: Contestant) -> Mapping[str, float]:
        load = loads[way]
        if slow.get(way):
            return {}  # it was measured already
        if way not in slow:
            slow[way] = wrk.run(load, seconds).requests < load.connections
            wait_for_rest()
        outcome = wrk.run(load, seconds * SLOW if slow[way] else seconds)
        wait_for_rest()
        return outcome.metrics()

    return one


def _at_rest(ways: Ways, mlflows: list[Server]) -> Callable[[], None]:
    """A function that returns when the servers use hardly more than without requests. They do use
    something: MLflow's job runners poll all the time."""

    def pids() -> list[int]:
        families = [family(server.pid) for server in mlflows] + [w.pids() for w in ways.values()]
        return [pid for one in families for pid in one]

    wait_until_idle(pids(), cores=0.6, timeout=30.0)  # /health is 200 before all has started
    resting = cores_used(pids(), 2.0)
    return lambda: wait_until_idle(pids(), cores=resting + 0.4, timeout=10.0)


def _wait_until_well(ways: Ways) -> None:
    """Return when each way works again: MLflow was seen to give no response for a while after many
    writes at once, and then a proxy's circuit is open."""
    for way in ways.values():
        deadline = time.monotonic() + UNWELL
        while not _is_well(way) and time.monotonic() < deadline:
            time.sleep(1.0)


def _is_well(way: Contestant) -> bool:
    try:
        return _post(way, "experiments/search", {"max_results": 1}, timeout=3).ok
    except requests.RequestException:
        return False


# --- experiments and runs ------------------------------------------------------------------------


def _prepare(way: Contestant) -> tuple[str, str]:
    """(an experiment with RUNS runs to be found, a run to write to), made through this very way."""
    found, written = (
        _create(way, "experiments/create", name=f"{name} {way.url}")["experiment_id"]
        for name in ("found", "written")
    )
    for number in range(RUNS):
        metric = {"key": "loss", "value": number / RUNS, "timestamp": 1, "step": 0}
        _create(way, "runs/log-batch", run_id=_new_run(way, found), metrics=[metric])
    return found, _new_run(way, written)


def _new_run(way: Contestant, experiment: str) -> str:
    run = _create(way, "runs/create", experiment_id=experiment, start_time=1)["run"]
    return str(run["info"]["run_id"])


def _create(way: Contestant, path: str, **body: Any) -> Any:
    response = _post(way, path, body, timeout=60)
    response.raise_for_status()
    return response.json()


def _post(way: Contestant, path: str, body: object, timeout: float) -> requests.Response:
    return requests.post(f"{way.url}{API}/{path}", json=body, headers=way.headers, timeout=timeout)


# --- the SDK's loop ------------------------------------------------------------------------------


def _sdk_loops(bench: Bench, ways: Ways) -> None:
    """Each once, since a peer takes half a minute; then those that the goal compares, again."""

    def one(way: Contestant) -> Mapping[str, float]:
        settings = QUIET | {"MLFLOW_TRACKING_URI": way.url} | dict(way.sdk)
        command = [sys.executable, "-c", PROGRAM, str(bench.effort.steps)]
        printed = subprocess.check_output(command, env=os.environ | settings)
        return {"seconds": float(printed.split()[-1])}

    bench.alternate(SDK_LOOP, ways, 1, one)
    compared = {name: ways[name] for name in (DIRECT, PROXY)}
    bench.alternate(SDK_LOOP, compared, bench.effort.rounds - 1, one)
    bench.report(SDK_LOOP, "seconds", "s")


# --- tables and goals ----------------------------------------------------------------------------


def tables(results: Results) -> Iterator[str]:
    """Times, rates, and the SDK's loop: a row a case, a column a contestant."""
    calls = [case for case in results.cases if case != SDK_LOOP]
    names = measured_in(results, *calls)
    for caption, cases, metric in (
        ("Median time of a call, ms; calls × connections (less is better):", calls, "p50_ms"),
        ("Requests per second (more is better):", calls, "rps"),
        ("The SDK's training loop, s (less is better):", [SDK_LOOP], "seconds"),
    ):
        rows = {
            case: [
                *(results.median(case, name, metric) for name in names),
                results.ratio(case, metric, PROXY, DIRECT),
            ]
            for case in cases
        }
        yield table(caption, ["", *names, "proxy ÷ direct"], rows)


def goals(results: Results, machine: Description) -> Iterator[Goal]:
    """Faster through the proxy than without it, and than through its peers."""
    for call in CALLS:
        ratio = results.ratio(f"{call} × 1", "p50_ms", PROXY, DIRECT)
        yield Goal(f"{call}: p50 ÷ direct, 1 connection", "≤", 0.35, ratio)
    for call in CALLS:
        ratio = results.ratio(f"{call} × 8", "rps", PROXY, DIRECT)
        yield Goal(f"{call}: requests/s ÷ direct, 8 connections", "≥", 1.2, ratio)
    loop = results.ratio(SDK_LOOP, "seconds", PROXY, DIRECT)
    yield Goal("the SDK's loop: time ÷ direct", "≤", 0.4, loop)
    for peer in PEERS:
        found = worst(_beside(results, peer))
        remark, ratio = found or ("not measured", None)
        yield Goal(f"beats {peer}: worst ratio", "<", 1.0, ratio, remark)


def _beside(results: Results, peer: str) -> Iterator[tuple[str, float | None]]:
    for case in results.cases:
        yield f"{case}, p50", results.ratio(case, "p50_ms", PROXY, peer)
        yield f"{case}, requests/s", results.ratio(case, "rps", peer, PROXY)
        yield case, results.ratio(case, "seconds", PROXY, peer)


def worst(ratios: Iterable[tuple[str, float | None]]) -> tuple[str, float] | None:
    """The largest of the named ratios, with its name; None where all are missing."""
    known = [(name, ratio) for name, ratio in ratios if ratio is not None]
    return max(known, key=lambda pair: pair[1]) if known else None
