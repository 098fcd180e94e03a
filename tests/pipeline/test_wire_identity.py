"""A real MLflow with users of its own: each key acts as its user, and nobody else can say so."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from devstack.mlflow import WITHOUT_JOBS, BasicAuthMLflow, MLflow
from devstack.proxy import Proxy
from devstack.server import Running
from tests.upstreams import Answer, Upstream, eventually, send, sized
from tests.wire import Response, bearer, call

SECRET, FORMER = "hk_test_" + "s" * 32, "hk_test_" + "f" * 32
#: What MLflow gives its own jobs, which call its gateway in their users' names.
OF_JOBS = "hk_test_of_mlflows_jobs"
PROVIDER = {
    "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http",
}
API, FILES = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"
CHAT = "/gateway/openai/v1/chat/completions"
CURRENT = f"{API}/users/current"
JSON = "Content-Type: application/json"
SCOPES = ("read", "write", "delete", "gateway")

pytestmark = pytest.mark.slow


@dataclass
class Caller:
    """A user with a key, at the proxy."""

    user: str
    key: str
    url: str

    def ask(self, method: str, path: str, *fields: str, body: bytes = b"") -> Response:
        return call(self.url, method, f"/api/mlflow{path}", bearer(self.key), *fields, body=body)

    def post(self, path: str, **body: object) -> Any:
        answer = self.ask("POST", path, JSON, body=json.dumps(body).encode())
        assert answer.status == 200, answer
        return answer.json


# --- the servers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def users(
    basic_auth_environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BasicAuthMLflow]:
    """MLflow with the module, in two workers. Its secret has just been changed."""
    server = BasicAuthMLflow(
        tmp_path_factory.mktemp("users"),
        options=("--workers", "2"),
        settings=WITHOUT_JOBS | PROVIDER | {"_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN": OF_JOBS},
        identity_secret=f"{FORMER},{SECRET}",
    )
    with Running(kill=True) as running:
        yield running.start(server)


@pytest.fixture(scope="module")
def behind(users: BasicAuthMLflow, start_front: Callable[..., Proxy]) -> Proxy:
    return start_front(
        MLFLOW_SERVER_URL=users.url, MLFLOW_IDENTITY_SECRET=SECRET, HEALTH_TIMEOUT=20
    )


@pytest.fixture(scope="module")
def caller(behind: Proxy, auth_service: Any) -> Callable[..., Caller]:
    """`caller("ann")`: with a key of its own."""

    def caller(user: str, *scopes: str) -> Caller:
        key = auth_service.create_key(user=user, scopes=scopes or SCOPES).key
        return Caller(user, key, behind.url)

    return caller


@pytest.fixture(scope="module")
def ann(caller: Callable[..., Caller]) -> Caller:
    return caller("ann")


@pytest.fixture(scope="module")
def bob(caller: Callable[..., Caller]) -> Caller:
    return caller("bob")


@pytest.fixture(scope="module")
def root(caller: Callable[..., Caller], users: BasicAuthMLflow) -> Caller:
    """An operator, whom MLflow's own administrator has made another one."""
    root = caller("root", "admin")
    assert root.ask("GET", CURRENT).json["user"]["is_admin"] is False
    body = json.dumps({"username": "root", "is_admin": True}).encode()
    answer = direct(
        users, "PATCH", f"{API}/users/update-admin", with_password(users), JSON, body=body
    )
    assert answer.status == 200
    return root


@pytest.fixture(scope="module")
def anns(ann: Caller) -> dict[str, str]:
    """What is ann's, by the words in the table below."""
    experiment = ann.post(f"{API}/experiments/create", name="of ann")["experiment_id"]
    run = ann.post(f"{API}/runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    ann.post(f"{API}/registered-models/create", name="of-ann")
    file = f"{experiment}/{run}/artifacts/a.txt"
    assert ann.ask("PUT", f"{FILES}/{file}", body=b"hers").status == 200
    return {"experiment": experiment, "run": run, "file": file}


def direct(
    users: BasicAuthMLflow, method: str, target: str, *fields: str, body: bytes = b""
) -> Response:
    """Past the proxy."""
    return call(users.url, method, target, "Host: 127.0.0.1", *fields, body=body)


def with_password(users: BasicAuthMLflow) -> str:
    return basic("admin", users.password)


def basic(user: str, password: str) -> str:
    return f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


# --- each key acts as its user -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "fields", "body", "statuses"),
    [
        ("GET", f"{API}/experiments/get?experiment_id={{experiment}}", (), "", (200, 403)),
        ("GET", f"{API}/runs/get?run_id={{run}}", (), "", (200, 403)),
        ("GET", f"{API}/registered-models/get?name=of-ann", (), "", (200, 403)),
        ("POST", f"{API}/runs/log-metric", (JSON,), '{"run_id": "RUN", "key": "a"}', (400, 403)),
        # MLflow's native routes, and those of the same address that are not
        ("GET", f"{FILES}/{{file}}", (), "", (200, 403)),
        ("PUT", f"{FILES}/{{file}}", (), "hers", (200, 403)),
        ("GET", f"{FILES}?path={{experiment}}%2F{{run}}", (), "", (200, 403)),
        ("DELETE", f"{FILES}/{{file}}b", (), "", (200, 403)),
        # MLflow permits HEAD to its administrators only.
        ("HEAD", f"{FILES}/{{file}}", (), "", (403, 403)),
        ("POST", "/v1/traces", ("X-MLflow-Experiment-Id: {experiment}",), "", (400, 403)),
        ("POST", "/gateway/unknown/mlflow/invocations", (JSON,), "{}", (403, 403)),
        ("GET", "/gateway/mlflow/v1/models", (), "", (200, 200)),
    ],
)
def test_what_is_hers_is_not_his(
    ann: Caller,
    bob: Caller,
    anns: dict[str, str],
    method: str,
    path: str,
    fields: tuple[str, ...],
    body: str,
    statuses: tuple[int, int],
) -> None:
    content = body.replace("RUN", anns["run"]).encode()
    lines = [field.format(**anns) for field in fields]
    if path.startswith("/v1/traces"):
        lines.append("Content-Type: application/x-protobuf")
    target = path.format(**anns)
    asked = [each.ask(method, target, *lines, body=content) for each in (ann, bob)]
    assert (asked[0].status, asked[1].status) == statuses


def test_he_does_not_find_it_either(ann: Caller, bob: Caller, anns: dict[str, str]) -> None:
    query = f'query {{mlflowGetRun(input: {{runId: "{anns["run"]}"}}) {{run {{info {{runId}}}}}}}}'
    found = ann.post("/graphql", query=query)["data"]["mlflowGetRun"]
    assert found["run"]["info"]["runId"] == anns["run"]
    assert bob.post("/graphql", query=query)["data"]["mlflowGetRun"] is None
    search = f"{API}/experiments/search?max_results=10"
    assert [each["name"] for each in ann.ask("GET", search).json["experiments"]] == ["of ann"]
    assert bob.ask("GET", search).json == {}


def test_mlflows_own_refusal_is_for_the_caller(bob: Caller, anns: dict[str, str]) -> None:
    answer = bob.ask("GET", f"{API}/runs/get?run_id={anns['run']}")
    assert (answer.status, answer.body) == (403, b"Permission denied")


def test_mlflows_permissions_act(
    caller: Callable[..., Caller], root: Caller, anns: dict[str, str]
) -> None:
    guest, target = caller("guest"), f"{API}/runs/get?run_id={anns['run']}"
    assert guest.ask("GET", target).status == 403
    root.post(
        "/api/3.0/mlflow/users/permissions/grant",
        username="guest",
        resource_type="experiment",
        resource_id=anns["experiment"],
        permission="READ",
    )
    assert guest.ask("GET", target).status == 200


@pytest.mark.parametrize(
    "name",
    ["a b", "a%20b", "100%", "ü", "a?b", "a\\b", "%2541", "x;y=1&z", "tab\tx", "cr\rx", "[x]^`~"],
)
def test_a_path_is_signed_as_mlflow_reads_it(ann: Caller, anns: dict[str, str], name: str) -> None:
    target = f"{FILES}/{anns['experiment']}/{quote(name, safe='')}"
    statuses = [ann.ask("PUT", target, body=b"a").status]
    statuses += [ann.ask(method, target).status for method in ("GET", "DELETE")]
    assert statuses == [200, 200, 200]


@pytest.mark.parametrize("user", ["jürgen", "an id, with: all/of%41it@x", "x" * 255])
def test_a_user_has_the_same_name_at_mlflow(caller: Callable[..., Caller], user: str) -> None:
    seen = caller(user, "admin").ask("GET", CURRENT).json["user"]
    assert (seen["username"], seen["is_admin"]) == (user, False)


@pytest.mark.parametrize(("user", "status"), [("hokusai-proxy", 403), ("x" * 256, 502)])
def test_a_user_without_a_name_of_its_own_is_refused(
    caller: Callable[..., Caller], user: str, status: int
) -> None:
    assert caller(user, "admin").ask("GET", CURRENT).status == status


def test_the_first_requests_of_a_user_may_come_at_once(
    users: BasicAuthMLflow, root: Caller
) -> None:
    """To both workers."""
    ask = partial(direct, users, "GET", CURRENT)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, *signed("GET", CURRENT, user="many")) for _ in range(12)]
    assert {each.result().status for each in asked} == {200}
    listed = root.ask("GET", f"{API}/users/list").json["users"]
    assert [each["username"] for each in listed].count("many") == 1


def test_a_budget_of_one_user(ann: Caller, bob: Caller, root: Caller, upstream: Upstream) -> None:
    """MLflow's gateway hands the signature to the provider; it is good for this path only."""
    spoken = {"role": "assistant", "content": "hi"}
    choices = [{"index": 0, "message": spoken, "finish_reason": "stop"}]
    page = {"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    body = json.dumps(page | {"usage": {}}).encode()
    upstream.answers(Answer(send(sized(body, 200, ("Content-Type", "application/json")))))
    endpoint = make_endpoint(root, upstream.url)
    for user in ("ann", "bob"):
        root.post(
            "/api/3.0/mlflow/users/permissions/grant",
            username=user,
            resource_type="gateway_endpoint",
            resource_id=endpoint,
            permission="USE",
        )
    chat = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
    ann.post(CHAT, **chat)
    assert upstream.requests[-1].all("X-Hokusai-Signature") != []
    root.post(
        "/api/3.0/mlflow/gateway/budgets/create",
        budget_unit="USD",
        budget_amount=0.0,
        duration={"unit": "DAYS", "value": 1},
        target_scope="USER",
        target_value="ann",
        budget_action="REJECT",
    )

    def ask(each: Caller) -> Response:
        return each.ask("POST", CHAT, JSON, body=json.dumps(chat).encode())

    eventually(lambda: ask(ann).status == 429, "the end of ann's budget")
    assert ask(bob).status == 200


def make_endpoint(root: Caller, provider: str) -> str:
    """An endpoint `chat` of MLflow's gateway; its id."""
    gateway = "/api/3.0/mlflow/gateway"
    secret = root.post(
        f"{gateway}/secrets/create",
        secret_name="of the provider",
        secret_value={"api_key": "hk_test_of_the_provider"},
        provider="openai",
        auth_config={"api_base": provider},
    )
    model = root.post(
        f"{gateway}/model-definitions/create",
        name="m",
        secret_id=secret["secret"]["secret_id"],
        provider="openai",
        model_name="m",
    )
    used = {
        "model_definition_id": model["model_definition"]["model_definition_id"],
        "linkage_type": "PRIMARY",
        "weight": 1.0,
    }
    made = root.post(
        f"{gateway}/endpoints/create", name="chat", model_configs=[used], usage_tracking=False
    )
    return str(made["endpoint"]["endpoint_id"])


# --- nobody else can say who calls ---------------------------------------------------------------

#: One of MLflow's Flask, and its native ones: artifacts, traces, the gateway.
ROUTES = [
    ("GET", f"{API}/experiments/search?max_results=1"),
    ("GET", f"{FILES}/0/a.txt"),
    ("POST", "/v1/traces"),
    ("GET", "/gateway/mlflow/v1/models"),
]


def signed(
    method: str,
    target: str,
    user: str = "ann",
    age: int = 0,
    secret: str = SECRET,
    version: str = "hokusai-1",
) -> list[str]:
    """The fields of a request that the proxy has signed so many seconds ago."""
    path, _, query = target.partition("?")
    moment = str(int(time.time()) - age)
    message = "\n".join((version, moment, method, path, query, user)).encode()
    digest = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    return [f"X-Hokusai-User-Id: {user}", f"X-Hokusai-Signature: {moment}.{digest}"]


ANOTHER = "is of another request or another MLFLOW_IDENTITY_SECRET"
NEITHER = "neither a signature of the Hokusai proxy nor the right password"
FORGED: dict[str, tuple[Callable[[str, str], list[str]], str]] = {
    "nothing": (lambda method, target: [], NEITHER),
    "a user": (lambda method, target: ["X-Hokusai-User-Id: ann"], NEITHER),
    "a password": (lambda method, target: [basic("admin", "hk_test_wrong_0123")], NEITHER),
    "the jobs' token": (lambda method, target: [basic("ann", OF_JOBS)], NEITHER),
    "another secret": (lambda method, target: signed(method, target, secret="x" * 32), ANOTHER),
    "another user": (
        lambda method, target: ["X-Hokusai-User-Id: root", signed(method, target)[1]],
        ANOTHER,
    ),
    "no user": (lambda method, target: signed(method, target)[1:], ANOTHER),
    "another method": (lambda method, target: signed("DELETE", target), ANOTHER),
    "another path": (lambda method, target: signed(method, f"{target}/b"), ANOTHER),
    "another query": (lambda method, target: signed(method, f"{target}?a=1"), ANOTHER),
    "another version": (lambda method, target: signed(method, target, version="0"), ANOTHER),
    "no signature": (
        lambda method, target: ["X-Hokusai-User-Id: ann", "X-Hokusai-Signature: é.é"],
        ANOTHER,
    ),
    "an old one": (lambda method, target: signed(method, target, age=310), "over 300 s"),
    "one of tomorrow": (lambda method, target: signed(method, target, age=-310), "over 300 s"),
}


@pytest.mark.parametrize(("method", "target"), ROUTES)
@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_identity_is_refused_and_logged(
    users: BasicAuthMLflow, method: str, target: str, forged: str
) -> None:
    if forged == "the jobs' token" and target.startswith("/gateway/"):
        return  # where it counts
    make, words = FORGED[forged]
    logged = said(users, words)
    answer = direct(users, method, target, *make(method, target))
    assert (answer.status, answer.one("WWW-Authenticate")) == (401, 'Basic realm="mlflow"')
    eventually(lambda: said(users, words) > logged, "its line in MLflow's log")


def said(users: BasicAuthMLflow, words: str) -> int:
    return users.log.read_text("utf-8", "replace").count(words)


@pytest.mark.parametrize(("method", "target"), ROUTES)
@pytest.mark.parametrize("age", [0, 290, -290])
@pytest.mark.parametrize("secret", [SECRET, FORMER])
def test_the_signature_of_the_test_is_the_right_one(
    users: BasicAuthMLflow, method: str, target: str, age: int, secret: str
) -> None:
    """Of a clock that differs a little, and of a proxy that does not have the new secret yet."""
    fields = signed(method, target, age=age, secret=secret)
    assert direct(users, method, target, *fields).status != 401


def test_a_right_password_does_not_mend_a_wrong_signature(users: BasicAuthMLflow) -> None:
    target = f"{API}/users/list"
    assert direct(users, "GET", target, with_password(users)).status == 200
    wrong = signed("GET", target, user="admin", secret="x" * 32)
    assert direct(users, "GET", target, with_password(users), *wrong).status == 401


def test_mlflows_jobs_call_its_gateway(users: BasicAuthMLflow) -> None:
    """In the field that is theirs, and in Authorization."""
    value = basic("ann", OF_JOBS).partition(" ")[2]
    for name in ("Authorization", "X-MLflow-Authorization"):
        answer = direct(users, "GET", "/gateway/mlflow/v1/models", f"{name}: {value}")
        assert answer.status == 200


# --- the proxy's own view ------------------------------------------------------------------------


def checks(proxy: Proxy) -> Any:
    return call(proxy.url, "GET", "/api/health").json["checks"]


def test_health_asks_as_a_user_without_rights(behind: Proxy) -> None:
    found = checks(behind)
    assert {each["status"] for each in found.values()} == {"healthy"}, found


def test_another_secret_is_the_operators_fault(
    users: BasicAuthMLflow, start_front: Callable[..., Proxy], ann: Caller
) -> None:
    wrong = {"MLFLOW_IDENTITY_SECRET": secrets.token_hex(16), "HEALTH_TIMEOUT": "20"}
    proxy = start_front(MLFLOW_SERVER_URL=users.url, **wrong)
    path = f"/api/mlflow{API}/experiments/search?max_results=1"
    answer = call(proxy.url, "GET", path, bearer(ann.key))
    assert answer.error == (502, "TEMPORARILY_UNAVAILABLE")
    assert "Your key is not the cause" in answer.json["message"]
    assert "MLFLOW_IDENTITY_SECRET" in checks(proxy)["experiments_api"]["message"]


def test_an_mlflow_that_believes_nobody_is_told_to_the_operator(
    mlflow_server: MLflow, start_front: Callable[..., Proxy]
) -> None:
    settings = {"MLFLOW_IDENTITY_SECRET": SECRET, "HEALTH_TIMEOUT": "20"}
    found = checks(start_front(MLFLOW_SERVER_URL=mlflow_server.url, **settings))
    assert found["experiments_api"]["status"] == "degraded"
    assert "does not check the proxy's signature" in found["experiments_api"]["message"]
