"""Every route of MLflow, with one tenant's ids under another's key: nothing crosses.

The requests stand in rows.py. A route without a line there fails here by its name.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from string import Template

import pytest

from app.request.route_table import Access
from devstack.mlflow import MLflow
from devstack.proxy import Proxy
from devstack.server import Running
from tests.conftest import DEVELOPERS_ENVIRONMENT, KeyedAuthService
from tests.tenants.belongings import Belongings, secrets_in
from tests.tenants.conftest import OPTIONS, PROXY, SETTINGS
from tests.tenants.databases import Database, PostgreSQL, SQLite
from tests.tenants.rows import ROWS
from tests.tenants.shapes import (
    LAST,
    PARAMETERS,
    UNAVAILABLE,
    UNAVAILABLE_ON_POSTGRESQL,
    archived,
    planted,
)
from tests.tenants.stand import OF_NOBODY, Stand, furnish
from tests.tenants.tries import CLOSED, ROUTES, Ids, Try, all_tries, pairs, parameters
from tests.upstreams import Answer, Received, Upstream, send, sized

pytestmark = pytest.mark.timeout(300)  # a minute or two on a busy machine

#: Operations that need no workspace, beside the kinds in OF_NOBODY, and that take any header.
ANYBODYS = {"GetServerInfo", "ServeStaticFile"}

#: Operations that have the same to say to everyone, although they are in a workspace.
EMPTY = {"GatewayProxyEndpoints"}

#: Kinds of routes that follow locations.
FOLLOWING = {"artifacts", "traces"}

Backend = tuple[MLflow, Database, Proxy]


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]
)
def stand(request: pytest.FixtureRequest, auth_service: KeyedAuthService) -> Iterator[Stand]:
    """Two tenants of an MLflow on this database."""
    with Upstream() as provider:
        provider.answers_by(completion)
        backend: Backend = request.getfixturevalue(f"on_{request.param}")
        yield furnish(*backend, auth_service, f"{provider.url}/v1")


def completion(asked: Received) -> Answer:
    """What a language model answers; it says whose key it was called with."""
    message = {"role": "assistant", "content": asked.one("Authorization")}
    document = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    body = json.dumps(document).encode()
    return Answer(send(sized(body, 200, ("Content-Type", "application/json"))))


@pytest.fixture(scope="module")
def on_sqlite(tenants_mlflow: MLflow, tenants_proxy: Proxy) -> Backend:
    """The MLflow of all tests in this folder."""
    return tenants_mlflow, SQLite(tenants_mlflow.folder / "mlflow.db"), tenants_proxy


@pytest.fixture(scope="module")
def on_postgresql(
    servers: Path, mlflow_python: Path, auth_service: KeyedAuthService, redis_url: str
) -> Iterator[Backend]:
    """An MLflow with its rows in PostgreSQL; skipped without one, unless REQUIRE_POSTGRESQL=1."""
    try:
        database = PostgreSQL(servers / "postgresql")
    except FileNotFoundError as missing:
        if DEVELOPERS_ENVIRONMENT.get("REQUIRE_POSTGRESQL") == "1":
            raise
        pytest.skip(str(missing))
    with Running(kill=True) as running:
        running.start(database)
        options = (*OPTIONS, "--backend-store-uri", database.uri)  # the last one counts
        folder = servers / "mlflow-on-postgresql"
        mlflow = running.start(MLflow(folder, options=options, settings=SETTINGS))
        upstreams = {
            "MLFLOW_SERVER_URL": mlflow.url,
            "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
            "REDIS_URL": redis_url,
        }
        proxy = running.start(Proxy(servers / "proxy-on-postgresql", PROXY | upstreams))
        yield mlflow, database, proxy


def test_every_row_has_a_line() -> None:
    needed = {route.operation for route in ROUTES if route.access not in CLOSED}
    assert sorted(needed - ROWS.keys()) == [], "add a line to tests/tenants/rows.py"
    assert sorted(ROWS.keys() - needed) == [], "remove a line from tests/tenants/rows.py"
    in_paths = {name for route in ROUTES for name in parameters(route.templates[0])}
    assert sorted(in_paths - PARAMETERS.keys()) == [], "add it to tests/tenants/shapes.py"


class Watch:
    """What the other tenant was answered: the pairs that were tried, and what crossed."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._state, self._rows = stand.state(), stand.rows()
        self.crossed: list[str] = []
        self.tried: Counter[tuple[str, str]] = Counter()
        self.statuses: Counter[int] = Counter()

    def send(self, each: Try, owners: Ids | None = None) -> None:
        """Send it with the owner's ids, or with those that are given."""
        stand = self._stand
        answer = each.send(stand.other, stand.other_ids, owners or stand.ids)
        self.tried[each.pair] += 1
        self.statuses[answer.status] += 1
        if found := secrets_in(answer.whole, stand.workspace):
            self.crossed.append(f"{each}: {answer.status} with {sorted(found)}")
        if each.route.access in CLOSED and answer.status != 403:
            self.crossed.append(f"{each}: {answer.status}")
        if owners is None and self._is_the_owners(each, answer.body):
            self.crossed.append(f"{each}: the owner's answer")

    def _is_the_owners(self, each: Try, body: bytes) -> bool:
        """Whether an answer says what the owner was answered, which may hold no secret."""
        same = str(replace(each, template=each.route.templates[0]))
        return self._state.get(same) == body and each.route.operation not in EMPTY

    def end(self) -> None:
        """Fail if anything has crossed, or if something of the owner's is not what it was."""
        state = self._stand.state()
        changed = [name for name, was in self._state.items() if state.get(name) != was]
        lost = sorted(self._rows - self._stand.database.rows())
        assert (self.crossed, changed, lost) == ([], [], [])
        assert state.keys() == self._state.keys()
        assert self.statuses[502] == 0, "not each of the requests was tried"


def test_nothing_crosses(stand: Stand) -> None:
    watch = Watch(stand)
    for each in chain(all_tries(twins=False), all_tries(twins=True)):
        for one in (each, *each.alone()):
            watch.send(one)
    for each in all_tries(twins=False):
        if each.method == "GET":
            watch.send(each.linked())
        for one in chain.from_iterable(alone.spelt() for alone in each.alone()):
            watch.send(one)
    for each in all_tries(twins=False):  # where has this led the other's own objects?
        if each.route.access is Access.READ:
            watch.send(each, stand.other_ids)
    watch.end()
    print(f"{len(watch.tried)} pairs, {watch.tried.total()} requests: {dict(watch.statuses)}")
    assert watch.tried.keys() == {pair for route in ROUTES for pair in pairs(route)}


@pytest.mark.parametrize("stand", ["sqlite"], indirect=True)
def test_older_locations_lead_nowhere(stand: Stand) -> None:
    """What no key may write any more may stand in the database; in which, makes no difference."""
    watch = Watch(stand)
    old = Belongings(stand.other, stand.other_ids["workspace"], stand.artifacts).ids
    known = old | {f"their_{name}": value for name, value in stand.ids.items()}
    for plant, kind in product((planted, archived), ("location", "folder")):
        for statement in plant(kind):
            stand.database.execute(Template(statement).substitute(known))
        for each in all_tries(twins=False):
            reads = each.route.access is Access.READ and each.route.kind in FOLLOWING
            if reads or each.route.operation == "UploadArtifactToRun":
                for one in (each, *each.spelt()):
                    watch.send(one, old)
    for each in all_tries(twins=False):
        if each.route.access is Access.DELETE:
            watch.send(each, old)
    watch.end()


def test_no_header_names_the_way_into_another_workspace(stand: Stand) -> None:
    served = {
        each.route.operation
        for each in chain(all_tries(twins=False), all_tries(twins=True))
        if each.send(stand.intruder, stand.other_ids, stand.ids).status != 403
    }
    assert served == ANYBODYS


def test_a_key_without_a_workspace_reaches_none(stand: Stand) -> None:
    served = set()
    for each in chain(all_tries(twins=False), all_tries(twins=True)):
        answer = each.send(stand.outsider, stand.other_ids, stand.ids)
        assert not secrets_in(answer.whole, stand.workspace), str(each)
        if answer.status != 403:
            served.add(each.route)
    assert {route.kind for route in served} == OF_NOBODY


def test_the_owner_is_served_each_of_these_requests(stand: Stand) -> None:
    """So that what was refused to others was refused for whose it is. This takes all apart."""

    def late(each: Try) -> tuple[int, bool]:
        """Deleting comes last, in an order that leaves something to delete."""
        place = LAST.index(each.route.operation) if each.route.operation in LAST else -1
        return place, each.route.access is Access.DELETE

    on_postgresql = isinstance(stand.database, PostgreSQL)
    unavailable = UNAVAILABLE | (UNAVAILABLE_ON_POSTGRESQL if on_postgresql else {})
    served = set()
    for each in sorted(all_tries(twins=False), key=late):
        answer = each.send(stand.owner, stand.ids, stand.ids)
        served |= {(each.method, each.route.operation)} if answer.status < 400 else set()
    there = {
        (method, route.operation)
        for route in ROUTES
        for method in route.methods
        if route.access not in CLOSED and route.operation not in unavailable
    }
    assert served == there
