"""MLflow's clients while the proxy sheds: each call succeeds in the end, and no run is there twice.

Several versions of the client call at the same time, each from an environment of its own; first the
fault, then their calls, then, after some seconds, the fault's end. 3.18, which repeats most POSTs
on 429 only, cannot be resolved from the registry yet; at the wire is tested that it gets 429.
"""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import requests
from redis import Redis

from devstack.environments import CLIENTS
from devstack.proxy import Proxy
from tests.drills.report import Row
from tests.drills.stage import Stage
from tests.fault_proxy import FaultProxy
from tests.upstreams import eventually
from tests.wire import Wire, bearer, call, request

#: The client's own 7 retries, with waits of some seconds instead of minutes.
WAIT_LIMIT = {
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.5",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

SHED = ("circuit_open", "overloaded", "auth_unavailable", "rate_limited")
PLACES = 24

#: Requests per hour. When its hour is over, 5.6 requests come back in each second: as many as the
#: clients' retries need on a busy machine.
LIMIT = 20_000
HOUR_MS = 3_600_000

VERSION = "/api/mlflow/version"


class Caller:
    """One version of the client, in a process of its own; a context manager."""

    def __init__(self, version: str, uri: str, experiment: str, run: str, folder: Path) -> None:
        environment = os.environ | WAIT_LIMIT | {"MLFLOW_TRACKING_URI": uri}
        script = Path(__file__).with_name("client_calls.py")
        self.version = version
        self._process = subprocess.Popen(
            [str(CLIENTS[version].python), str(script), experiment, run],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> str:
        """The exact version, when the client is imported."""
        return self._line().split()[1]

    def begin(self, name: str, calls: int, key: str) -> None:
        """Begins a round."""
        assert self._process.stdin
        self._process.stdin.write(f"{name} {calls} {key}\n")
        self._process.stdin.flush()

    def outcomes(self) -> list[dict[str, Any]]:
        """How each call of the round ended, when all have."""
        found: list[dict[str, Any]] = json.loads(self._line())
        return found

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the client {self.version} ended"
        return line


class Setting:
    """The proxy on a real MLflow and everything that can be made to shed."""

    def __init__(self, stage: Stage, seconds: float, ends: ExitStack) -> None:
        """`seconds` is how long each fault lasts."""
        self.stage = stage
        self.seconds = seconds
        mlflow = stage.mlflow()
        self.mlflow = ends.enter_context(FaultProxy(mlflow.port))
        self.auth = ends.enter_context(FaultProxy(int(stage.auth_url.rpartition(":")[2])))
        self.proxy: Proxy = stage.proxy(
            MLFLOW_SERVER_URL=self.mlflow.url,
            HOKUSAI_AUTH_SERVICE_URL=self.auth.url,
            MLFLOW_RETRY_DEADLINE=0.5,
            CIRCUIT_FAIL_MAX=3,
            CIRCUIT_RESET_TIMEOUT=1,
            AUTH_RETRY_INTERVAL=1,
            MAX_IN_FLIGHT_PER_KEY=PLACES,
        )
        self.direct = f"{mlflow.url}/api/2.0/mlflow"
        self.experiment = self._made("experiments/create", name=f"drill-{time.time()}")
        self.run = self._made("runs/create", experiment_id=self.experiment)

    def _made(self, what: str, **fields: str) -> str:
        answer = requests.post(f"{self.direct}/{what}", json=fields, timeout=30).json()
        return str(answer.get("experiment_id") or answer["run"]["info"]["run_id"])

    def runs(self) -> dict[str, list[str]]:
        """The ids of the runs that MLflow holds, by the tag with which they were created."""
        found: dict[str, list[str]] = {}
        for run in self._search():
            tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
            if "drill" in tags:
                found.setdefault(tags["drill"], []).append(run["info"]["run_id"])
        return found

    def _search(self) -> Iterator[dict[str, Any]]:
        token = None
        while token != "":
            question = {"experiment_ids": [self.experiment], "max_results": 1000}
            body = question | ({"page_token": token} if token else {})
            answer = requests.post(f"{self.direct}/runs/search", json=body, timeout=60).json()
            yield from answer.get("runs", [])
            token = answer.get("next_page_token", "")

    def ask(self, key: str) -> int:
        """The status of one small request."""
        return call(self.proxy.url, "GET", VERSION, bearer(key)).status

    def shed(self) -> Counter[str]:
        """How many requests the proxy shed so far, by outcome."""
        lines = (line.get("outcome") for line in self.proxy.log_lines())
        return Counter(outcome for outcome in lines if outcome in SHED)


# --- the faults ----------------------------------------------------------------------------------


@contextmanager
def circuit_open(setting: Setting) -> Iterator[str]:
    """MLflow refuses connections, and the circuit has found out."""
    key = setting.stage.key()
    setting.mlflow.refuse()
    eventually(lambda: setting.ask(key) == 503, "the opening of the circuit")
    yield key
    setting.mlflow.heal()


@contextmanager
def auth_down(setting: Setting) -> Iterator[str]:
    """The auth service refuses connections, and the key is one that the proxy never saw."""
    setting.auth.refuse()
    yield setting.stage.key()
    setting.auth.heal()


@contextmanager
def overload(setting: Setting) -> Iterator[str]:
    """The key's own uploads, which do not go on, take all the places that one key may have."""
    key = setting.stage.key()
    target = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/drill"
    stalled = request("PUT", target, bearer(key), "Content-Length: 1000000", body=bytes(100))
    with ExitStack() as ends:
        while setting.ask(key) != 503:
            ends.enter_context(Wire(setting.proxy.url)).send(stalled)
        yield key


@contextmanager
def limit_reached(setting: Setting) -> Iterator[str]:
    """The key has used up its limit, and gets its next requests when its hour is over."""
    key, key_id = setting.stage.new_key(LIMIT)
    assert setting.ask(key) == 200
    with Redis.from_url(setting.stage.redis_url) as redis:
        (counter,) = redis.scan_iter(f"LIMITS:*/{key_id}/*")
        rest = round(setting.seconds * 1000)  # of the hour, in which all of it is spent by now
        redis.set(counter, LIMIT, px=HOUR_MS + rest)
        yield key
        redis.delete(*redis.scan_iter(f"LIMITS:*/{key_id}/*"))


FAULTS: dict[str, Callable[[Setting], Any]] = {
    "circuit open": circuit_open,
    "auth service down": auth_down,
    "overload": overload,
    "limit reached (429)": limit_reached,
}


# --- the drill -----------------------------------------------------------------------------------


def drill(
    stage: Stage, calls: int, seconds: float, faults: Iterable[str] = FAULTS
) -> Iterator[Row]:
    """Each fault for some seconds, `calls` calls of each kind by each client; a row for each."""
    with ExitStack() as ends:
        setting = Setting(stage, seconds, ends)
        callers = [_caller(version, setting, ends) for version in CLIENTS]
        versions = {caller.version: caller.wait_until_ready() for caller in callers}
        stage.say(f"clients: {', '.join(versions.values())}")
        for name in faults:
            yield _one_fault(setting, callers, name, calls)


def _caller(version: str, setting: Setting, ends: ExitStack) -> Caller:
    caller = Caller(
        version, setting.proxy.api, setting.experiment, setting.run, setting.stage.folder
    )
    ends.callback(caller.end)
    return caller


def _one_fault(setting: Setting, callers: list[Caller], name: str, calls: int) -> Row:
    before = setting.shed()
    with FAULTS[name](setting) as key:
        for caller in callers:
            caller.begin(name.split()[0], calls, key)
        Event().wait(setting.seconds)
    healed = time.monotonic()
    outcomes = {caller.version: caller.outcomes() for caller in callers}
    took = time.monotonic() - healed
    every = [outcome for of_one in outcomes.values() for outcome in of_one]
    failed = [outcome for outcome in every if outcome["error"]]
    doubled, lost = _compare(every, setting.runs())
    shed = setting.shed() - before
    by_client = ", ".join(
        f"{version}: {sum(not one['error'] for one in of_one)}/{len(of_one)}"
        for version, of_one in outcomes.items()
    )
    return Row(
        "MLflow's clients",
        f"the proxy sheds: {name}, {setting.seconds:g} s",
        f"clients {', '.join(outcomes)} at once, {calls} each of create, log, search, get",
        f"{sum(shed.values())} requests shed; calls that succeeded in the end: {by_client}; "
        f"runs twice {len(doubled)}, acknowledged but missing {len(lost)}",
        round(took, 1),
        facts={
            "every call succeeds in the end": not failed,
            "nothing is there twice": not doubled,
            "nothing acknowledged is missing": not lost,
            "calls were shed": sum(shed.values()) >= len(callers),
        },
        numbers={
            "shed": dict(shed),
            "failed": failed,
            "twice": doubled,
            "missing": lost,
            "longest_call_s": max(outcome["seconds"] for outcome in every),
        },
    )


def _compare(
    outcomes: list[dict[str, Any]], held: dict[str, list[str]]
) -> tuple[list[str], list[str]]:
    """(tags of runs that are there twice, acknowledged runs that are not there)."""
    creates = [outcome for outcome in outcomes if outcome["kind"] == "create"]
    doubled = [one["tag"] for one in creates if len(held.get(one["tag"], [])) > 1]
    lost = [
        one["tag"]
        for one in creates
        if one["result"] and one["result"] not in held.get(one["tag"], [])
    ]
    return doubled, lost
