"""Every route of MLflow, with every kind of key: who gets through, and that nothing else does."""

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from app.auth.authorization import STATIC_FILES
from app.request.route_table import Access, Route, RouteTable
from devstack.proxy import Proxy
from tests.app.samples import route_of
from tests.upstreams import Answer, Upstream, send, sized
from tests.wire import Wire, bearer, call, request

TABLE = RouteTable.load()

#: What each kind of key may do.
MAY = {
    "no key": None,
    "a bad key": None,
    "a read key": {Access.READ},
    "a write key": {Access.READ, Access.WRITE, Access.DELETE},
    "a gateway key": {Access.GATEWAY},
    "an admin key": set(Access) - {Access.REFUSED},
}

#: Each object's artifacts are where keys may read them.
WITH_ROOT = Answer(send(sized(b'{"model": {"info": {"artifact_uri": "mlflow-artifacts:/0"}}}')))


@pytest.fixture(scope="module")
def keys(auth_service: Any) -> dict[str, list[str]]:
    """The header lines that carry each kind of key."""
    create = auth_service.create_key
    return {
        "no key": [],
        "a bad key": [bearer("hk_test_unknown")],
        "a read key": [bearer(create(scopes=["mlflow:read"]).key)],
        "a write key": [bearer(create(scopes=["model:write"]).key)],
        "a gateway key": [bearer(create(scopes=["mlflow:gateway"]).key)],
        "an admin key": [bearer(create(scopes=[], admin=True).key)],
    }


def samples(route: Route) -> Iterator[tuple[str, str]]:
    """A (method, path) for each method and template of a row."""
    for method, template in product(sorted(route.methods), route.templates):
        path = re.sub(r"{[a-z_]+:path}", "sample/path", template)
        path = re.sub(r"{[a-z_]+}", "sample", path)
        if route.operation == "ListArtifactsMlflowArtifacts":
            path += "?path=sample"  # nobody but an admin lists the root
        assert route_of(TABLE, method, path.partition("?")[0]) is route, (
            "the sample falls under another row"
        )
        yield method, path


def expected(who: str, access: Access) -> int:
    """The status that this kind of key gets."""
    may = MAY[who]
    if may is None:
        return 401
    return 200 if access in may else 403


def expected_of(who: str, route: Route) -> int:
    """The same for a row; MLflow's static files are public."""
    return 200 if route.operation == STATIC_FILES else expected(who, route.access)


def statuses(front: Proxy, asked: list[tuple[str, str]], fields: list[str]) -> list[int]:
    """The statuses of many requests on one connection, in portions that are pipelined."""
    found = []
    with Wire(front.url) as wire:
        for begin in range(0, len(asked), 50):
            portion = asked[begin : begin + 50]
            for method, path in portion:
                wire.send(request(method, f"/api/mlflow{path}", *fields))
            found += [wire.read(method).status for method, _ in portion]
    return found


@pytest.mark.parametrize("who", MAY)
def test_every_route_is_open_to_whom_the_table_says(
    front: Proxy, upstream: Upstream, keys: dict[str, list[str]], who: str
) -> None:
    rows = [(route, sample) for route in TABLE.routes for sample in samples(route)]
    assert len(rows) > 500
    asked = [sample for _, sample in rows]
    upstream.answers(WITH_ROOT)

    found = statuses(front, asked, keys[who])

    wrong = [
        (route.operation, sample, status)
        for (route, sample), status in zip(rows, found, strict=True)
        if status != expected_of(who, route)
    ]
    assert wrong == []
    allowed = [sample for route, sample in rows if expected_of(who, route) == 200]
    seen = [
        (asked.method.decode(), asked.target.decode())
        for asked in upstream.requests
        if asked.one("User-Agent") != "hokusai-mlflow-proxy"  # its own questions
    ]
    assert seen == allowed, "MLflow must have heard of these, and of nothing else"


UNKNOWN = [
    ("GET", "/api/2.0/mlflow/brand-new"),
    ("DELETE", "/api/2.0/mlflow/experiments/search"),
    ("OPTIONS", "/api/2.0/mlflow/experiments/search"),
    ("GET", "/api/2.0/mlflow/experiments%2Fsearch-x"),
]


@pytest.mark.parametrize("who", MAY)
def test_a_route_that_nobody_has_classified_needs_admin(
    front: Proxy, upstream: Upstream, keys: dict[str, list[str]], who: str
) -> None:
    assert statuses(front, UNKNOWN, keys[who]) == [expected(who, Access.ADMIN)] * len(UNKNOWN)
    assert len(upstream.requests) == (len(UNKNOWN) if who == "an admin key" else 0)


#: What MLflow cannot have, and what the message names as near.
MISSING = {
    "/API/2.0/mlflow/experiments/search": "/api/2.0/mlflow/experiments/search",
    "/api/2.0/mlflow/experiments/search/": "/api/2.0/mlflow/experiments/search",
    "/api/2.0/preview/mlflow/experiments/search": "/api/2.0/mlflow/experiments/search",
    "/api/2.0/mlflow/api/2.0/mlflow/runs/search": "/api/2.0/mlflow/runs/search",
    "/api/2.0/api/2.0/mlflow/runs/search": "/api/2.0/mlflow/runs/search",
    "/api/2.1/mlflow/runs/search": "/api/2.0/mlflow/runs/search",
    "/api/2.0/mlflow/experiments/list": "/api/2.0/mlflow/experiments/search",
    "/v1/logs": "",
    "/v1/metrics": "",
    "/v1/traces/": "/v1/traces",
    "/api/2.0/mlflow/v1/traces": "/v1/traces",
    "/mlflow/version": "/version",
    "/anything": "",
    "/api/2.0/mlflow/logged-models/m-1/tags/a/b": "",
    "/api/2.0/mlflow/logged-models/m-1/tags/a%2Fb": "",
    "/ajax-api/3.0/mlflow/datasets/d-1/tags/a/b": "",
}


@pytest.mark.parametrize("path", MISSING)
def test_what_mlflow_cannot_have_is_404_with_what_is_near(
    front: Proxy, upstream: Upstream, keys: dict[str, list[str]], path: str
) -> None:
    asked = [("DELETE", path)]
    assert statuses(front, asked, keys["no key"]) == [401]
    for who in ("a read key", "a write key"):
        answer = call(front.url, "DELETE", f"/api/mlflow{path}", *keys[who])
        assert answer.error == (404, "ENDPOINT_NOT_FOUND")
        assert f"nearest is {MISSING[path]}" in answer.json["message"] or not MISSING[path]
    assert upstream.requests == []
    assert statuses(front, asked, keys["an admin key"]) == [200], "MLflow answers an admin itself"


@pytest.mark.parametrize(
    "path",
    [
        "/ajax-api/3.0/mlflow/assistant/message",
        "/ajax-api/3.0/mlflow/%61ssistant/message",
        "/ajax-api/3.0/mlflow/assistant%2Fmessage",
        "/ajax-api%2f3.0/mlflow/assistant/message",
        "/api/3.0/mlflow/assistant/anything/else",
    ],
)
def test_an_encoding_opens_no_refused_route(
    front: Proxy, upstream: Upstream, keys: dict[str, list[str]], path: str
) -> None:
    """MLflow routes by the path decoded once, and so does the table."""
    assert statuses(front, [("POST", path)], keys["an admin key"]) == [403]
    assert upstream.requests == []


def test_head_is_what_get_is(front: Proxy, upstream: Upstream, keys: dict[str, list[str]]) -> None:
    upstream.answers(WITH_ROOT)
    rows = [(route, p) for route in TABLE.routes for m, p in samples(route) if m == "GET"]
    found = statuses(front, [("HEAD", path) for _, path in rows], keys["a read key"])
    assert found == [expected("a read key", route.access) for route, _ in rows]
