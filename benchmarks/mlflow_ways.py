"""The ways to a real MLflow, started; and something in it to be found and to be written to."""

import base64
import time
from typing import Any

import requests

from benchmarks.contestants import BASIC_AUTH, Contestant, helpers, ways_to
from benchmarks.machine import core_count
from benchmarks.meter import cores_used, family, wait_until_idle
from benchmarks.rounds import Bench
from benchmarks.servers import BasicAuthMLflow, StockMLflow
from devstack.environments import BASIC_AUTH_SERVER, is_whole
from devstack.server import Server

API = "/api/2.0/mlflow"

#: What runs/search finds.
RUNS = 10


#: Seconds for which everybody's rest is looked at, and for which one may take to come back to it.
REST, PATIENCE = 2.0, 10.0

#: Cores that the servers use when all has started, and seconds that this may take.
STARTED, PATIENCE_AT_START = 0.6, 30.0

#: Cores above their rest that the servers may use when the next is measured.
ALLOWANCE = 0.4

#: Seconds for which MLflow may be of no use after many writes at once.
UNWELL = 120.0


class Ways:
    """The contestants, and how busy their servers are while nobody asks: MLflow's job runners look
    for work all the time."""

    def __init__(self, contestants: list[Contestant], servers: list[Server]) -> None:
        self.contestants = contestants
        self._servers = servers
        self._resting = 0.0

    def look_at_rest(self) -> None:
        """Notes what the servers use by themselves; MLflow answers before all of it has started."""
        wait_until_idle(self._pids(), 0.0, STARTED, PATIENCE_AT_START)
        self._resting = cores_used(self._pids(), REST)

    def wait_for_rest(self) -> None:
        """Returns when nobody works any more on what a load left behind."""
        wait_until_idle(self._pids(), self._resting, ALLOWANCE, PATIENCE)

    def wait_until_well(self) -> None:
        """Returns when each way answers in its time again: after many writes at once MLflow was
        seen to answer nobody for a while, and then a proxy's circuit is open."""
        for contestant in self.contestants:
            deadline = time.monotonic() + UNWELL
            while not _is_well(contestant) and time.monotonic() < deadline:
                time.sleep(1.0)

    def _pids(self) -> list[int]:
        servers = [pid for server in self._servers for pid in family(server.pid)]
        return servers + [pid for contestant in self.contestants for pid in contestant.pids()]


def ways_to_mlflow(bench: Bench) -> Ways:
    """All of them, with their servers."""
    stage = bench.stage
    servers: list[Server] = [mlflow := StockMLflow(stage.folder / "mlflow")]
    if is_whole(BASIC_AUTH_SERVER):
        servers.append(basic := BasicAuthMLflow(stage.folder / "basic-auth"))
    bench.progress.say("starting MLflow as users run it; it takes half a minute")
    stage.start(*servers)
    contestants, skipped = ways_to(stage, mlflow.url, helpers(stage), workers=core_count())
    if len(servers) > 1:
        pair = base64.b64encode(f"admin:{basic.password}".encode()).decode()
        contestants.append(Contestant(BASIC_AUTH, basic.url, (f"Authorization: Basic {pair}",)))
    else:
        skipped[BASIC_AUTH] = "not installed (--no-install)"
    bench.results.skipped |= skipped
    return Ways(contestants, servers)


def _is_well(contestant: Contestant) -> bool:
    headers = dict(field.split(": ", 1) for field in contestant.fields)
    url = f"{contestant.url}{API}/experiments/search"
    try:
        return requests.post(url, json={"max_results": 1}, headers=headers, timeout=3).ok
    except requests.RequestException:
        return False


def prepare(contestant: Contestant) -> tuple[str, str]:
    """(an experiment with RUNS runs to be found, a run to write to), made through this very way."""
    found = _new_experiment(contestant, f"searched by {contestant.name}")
    for number in range(RUNS):
        metric = {"key": "loss", "value": number / RUNS, "timestamp": 1, "step": 0}
        run = _new_run(contestant, found)
        _post(contestant, "/runs/log-batch", {"run_id": run, "metrics": [metric]})
    written = _new_experiment(contestant, f"written by {contestant.name}")
    return found, _new_run(contestant, written)


def _new_experiment(contestant: Contestant, name: str) -> str:
    return str(_post(contestant, "/experiments/create", {"name": name})["experiment_id"])


def _new_run(contestant: Contestant, experiment: str) -> str:
    body = {"experiment_id": experiment, "start_time": 1}
    return str(_post(contestant, "/runs/create", body)["run"]["info"]["run_id"])


def _post(contestant: Contestant, path: str, body: object) -> dict[str, Any]:
    headers = dict(field.split(": ", 1) for field in contestant.fields)
    answer = requests.post(contestant.url + API + path, json=body, headers=headers, timeout=60)
    answer.raise_for_status()
    told: dict[str, Any] = answer.json()
    return told
