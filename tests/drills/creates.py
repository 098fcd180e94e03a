"""Creates while MLflow's answers break: what was acknowledged exists, and nothing exists twice.

The client is the most careful there is, MLflow's from 3.18 on: it repeats a create on 429 (and 503)
only. Whatever is there twice all the same, we doubled.
"""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests

from tests.drills.load import in_parallel
from tests.drills.report import Row
from tests.drills.stage import Stage
from tests.fault_proxy import CLIENT, SERVER, FaultProxy
from tests.upstreams import Answer, Exchange, Received, Upstream, close, reset, send, silence, sized
from tests.wire import Response, bearer, call

CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"
JSON = ("Content-Type", "application/json")

#: Not forwarded, says the proxy: these may be repeated, after Retry-After.
SHED = (429, 503)


@dataclass
class Ledger:
    """Runs that the fake MLflow holds: the ids by the number of the request."""

    runs: dict[int, list[str]] = field(default_factory=dict)

    def create(self, number: int) -> bytes:
        """One more run; MLflow's answer about it."""
        held = self.runs.setdefault(number, [])
        held.append(f"run-{number}-{len(held)}")
        content = {"run": {"info": {"run_id": held[-1]}, "data": {}}}
        return sized(json.dumps(content).encode(), 200, JSON)


# --- faults, one request at a time, at a fake ----------------------------------------------------


def _faulty(ledger: Ledger, number: int, where: str) -> Answer:
    """The answer to one create that goes wrong somewhere."""

    def created(exchange: Exchange) -> None:
        ledger.create(number)

    def answered(keep: Callable[[bytes], bytes]) -> Callable[[Exchange], None]:
        return lambda exchange: exchange.connection.sendall(keep(ledger.create(number)))

    return {
        "before, head read": Answer(reset(), early=True),
        "before, body read": Answer(reset()),
        "created, then reset": Answer(created, reset()),
        "created, then closed": Answer(created, close()),
        "created, no answer": Answer(created, silence()),
        "in the answer's head": Answer(answered(lambda answer: answer[:20]), reset()),
        "in the answer's body": Answer(answered(lambda answer: answer[:-5]), close()),
        "a gateway's page": Answer(send(sized(b"<html>", 502, ("Content-Type", "text/html")))),
        "behind the answer, reset": Answer(answered(lambda answer: answer), reset()),
        "behind the answer, closed": Answer(answered(lambda answer: answer), close()),
    }[where]


WHERE = (
    "before, head read",
    "before, body read",
    "created, then reset",
    "created, then closed",
    "created, no answer",
    "in the answer's head",
    "in the answer's body",
    "a gateway's page",
    "behind the answer, reset",
    "behind the answer, closed",
)


def at_a_fake(stage: Stage, creates: int, share: float = 0.01, threads: int = 8) -> Row:
    """`share` of the creates go wrong at each of the places in WHERE; and now and then MLflow
    refuses connections for a moment."""
    ledger = Ledger()
    chosen = _choose(creates, share)
    with Upstream() as fake, FaultProxy(fake.port) as faults:

        def by_number(asked: Received) -> Answer:
            if asked.target == b"/health":
                return Answer(send(sized()))
            number = int(asked.target.rpartition(b"?n=")[2])
            if number in chosen:
                return _faulty(ledger, number, chosen[number])
            return Answer(lambda exchange: exchange.connection.sendall(ledger.create(number)))

        fake.answers_by(by_number)
        proxy = stage.proxy(
            MLFLOW_SERVER_URL=faults.url,
            MLFLOW_READ_TIMEOUT=0.3,
            MLFLOW_ARTIFACT_READ_TIMEOUT=0.3,
            HEALTH_TIMEOUT=0.3,
            CIRCUIT_RESET_TIMEOUT=1,
        )
        key = stage.key()
        with _now_and_then(lambda chance: _refuse(faults, 0.05), every=1.0) as thrown:
            answers = in_parallel(
                lambda number: create(f"{proxy.url}{CREATE}?n={number}", key, {}), creates, threads
            )
    where = f"{share:.0%} at each of {len(WHERE)} places before, in and behind the answer"
    fault = f"{where}; connections refused {len(thrown)} times"
    return _row("creates, fake MLflow", fault, answers, ledger.runs)


def _choose(creates: int, share: float) -> dict[int, str]:
    """Which creates go wrong, and where."""
    each = max(1, round(creates * share))
    numbers = random.Random(1).sample(range(creates), each * len(WHERE))
    return {number: WHERE[index % len(WHERE)] for index, number in enumerate(numbers)}


# --- faults at random moments, in front of the real MLflow ---------------------------------------


def at_the_real_one(stage: Stage, creates: int, every: float = 0.6, threads: int = 4) -> Row:
    """Every so many seconds the connections to MLflow are refused, reset, or cut."""
    mlflow = stage.mlflow()
    direct = f"{mlflow.url}/api/2.0/mlflow"
    name = {"name": f"creates-{time.time()}"}
    made = requests.post(f"{direct}/experiments/create", json=name, timeout=30).json()
    experiment = made["experiment_id"]
    with FaultProxy(mlflow.port) as faults:
        proxy = stage.proxy(MLFLOW_SERVER_URL=faults.url, CIRCUIT_RESET_TIMEOUT=1)
        key = stage.key()

        def one(number: int) -> Response:
            tags = [{"key": "number", "value": str(number)}]
            if number and number % 250 == 0:
                stage.say(f"  … {number:,} of {creates:,} creates")
            body = {"experiment_id": experiment, "tags": tags}
            return create(f"{proxy.url}{CREATE}", key, body)

        with _now_and_then(lambda chance: _break(faults, chance), every) as thrown:
            answers = in_parallel(one, creates, threads)
    kinds = ", ".join(f"{times} × {kind}" for kind, times in sorted(Counter(thrown).items()))
    held = _held_by(direct, experiment)
    return _row("creates, real MLflow", f"at random moments: {kinds}", answers, held)


def _break(faults: FaultProxy, chance: random.Random) -> str:
    """One fault, for a moment; its name."""
    kind = chance.choice(("refused", "reset", "cut in the request", "cut in the answer"))
    if kind == "refused":
        return _refuse(faults, 0.1)
    if kind == "reset":
        faults.reset()
        return kind
    side = CLIENT if kind == "cut in the request" else SERVER
    faults.cut(after=chance.randint(0, 700), of=side, with_reset=chance.random() < 0.5)
    time.sleep(0.05)
    faults.heal()
    return kind


def _refuse(faults: FaultProxy, seconds: float) -> str:
    faults.refuse()
    time.sleep(seconds)
    faults.heal()
    return "refused"


@contextmanager
def _now_and_then(
    action: Callable[[random.Random], str], every: float, seed: int = 1
) -> Iterator[list[str]]:
    """Throws a fault every so many seconds, more or less; gives their names."""
    chance, over, thrown = random.Random(seed), threading.Event(), list[str]()

    def run() -> None:
        while not over.wait(every * chance.uniform(0.5, 1.5)):
            thrown.append(action(chance))

    thread = threading.Thread(target=run)
    thread.start()
    yield thrown
    over.set()
    thread.join()


def _held_by(direct: str, experiment: str) -> dict[int, list[str]]:
    """What the real MLflow holds: the ids by the number of the request."""
    found: dict[int, list[str]] = {}
    token = None
    while token != "":
        body = {"experiment_ids": [experiment], "max_results": 1000}
        body |= {"page_token": token} if token else {}
        answer = requests.post(f"{direct}/runs/search", json=body, timeout=60).json()
        for run in answer.get("runs", []):
            tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
            found.setdefault(int(tags["number"]), []).append(run["info"]["run_id"])
        token = answer.get("next_page_token", "")
    return found


# --- the client, and the row ----------------------------------------------------------------------


def create(url: str, key: str, body: dict[str, object]) -> Response:
    """One create, repeated only where the proxy says that it was not forwarded."""
    url, path = url[: url.index("/api/")], url[url.index("/api/") :]
    while True:
        fields = (bearer(key), "Content-Type: application/json")
        answer = call(url, "POST", path, *fields, body=json.dumps(body).encode())
        if answer.status not in SHED:
            return answer
        time.sleep(int(answer.one("Retry-After") or 1))


def _row(
    drill: str,
    fault: str,
    answers: list[Response],
    held: dict[int, list[str]],
) -> Row:
    acknowledged = {
        number: answer.json["run"]["info"]["run_id"]
        for number, answer in enumerate(answers)
        if answer.status == 200 and answer.whole
    }
    missing = [n for n, run in acknowledged.items() if run not in held.get(n, [])]
    twice = [number for number, runs in held.items() if len(runs) > 1]
    unknown = len(answers) - len(acknowledged)
    orphans = len(held.keys() - acknowledged.keys())
    statuses = Counter(answer.status if answer.whole else 0 for answer in answers)
    seen = ", ".join(f"{n:,} × {status or 'broken off'}" for status, n in sorted(statuses.items()))
    return Row(
        drill,
        fault,
        f"{len(answers):,} creates, each sent once unless it was shed",
        f"{seen}; acknowledged but missing **{len(missing)}**, there twice **{len(twice)}**; "
        f"{unknown} not acknowledged, of which {orphans} exist",
        None,
        facts={
            "nothing acknowledged is missing": not missing,
            "nothing is there twice": not twice,
            "most creates are acknowledged": len(acknowledged) > len(answers) / 2,
        },
        numbers={
            "statuses": {str(status): n for status, n in statuses.items()},
            "missing": missing,
            "twice": twice,
            "unknown": unknown,
            "orphans": orphans,
        },
    )
