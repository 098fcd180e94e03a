"""No key is ever seen again: not in a log, Redis, a metric, a trace, an error, nor by MLflow.

A hundred keys are put wherever people put keys, rightly and wrongly, and then looked for.
"""

import base64
import json
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
import redis

from devstack.proxy import Proxy
from tests.otlp import Collector
from tests.upstreams import (
    WAIT_LIMIT,
    Answer,
    Received,
    Upstream,
    eventually,
    refused_port,
    send,
)
from tests.wire import Wire, bearer, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
ARTIFACTS = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts"
OTHER = "hk_test_another0another0another0another0another0abc"


def get(target: str, *fields: str) -> bytes:
    return request("GET", target, *fields)


def basic(text: str) -> str:
    return f"Authorization: Basic {base64.b64encode(text.encode()).decode()}"


def encoded(key: str) -> str:
    return "".join(f"%{ord(letter):02x}" for letter in key)


#: Where a key belongs.
RIGHT: dict[str, Callable[[str], bytes]] = {
    "Bearer": lambda key: get(SEARCH, bearer(key)),
    "ApiKey": lambda key: get(SEARCH, f"Authorization: ApiKey {key}"),
    "Basic": lambda key: get(SEARCH, basic(f"ann:{key}")),
    "X-API-Key": lambda key: get(SEARCH, f"X-API-Key: {key}"),
    "both": lambda key: get(SEARCH, f"X-API-Key: {key}", bearer(key)),
    "with a body": lambda key: request("POST", SEARCH, bearer(key), body=b"{}"),
    "to health": lambda key: get("/api/health/mlflow/detailed", bearer(key)),
    "without a scope": lambda key: get("/api/mlflow/brand-new", bearer(key)),
}

#: Where people put one all the same.
WRONG: dict[str, Callable[[str], bytes]] = {
    "query": lambda key: get(f"{SEARCH}?api_key={key}", bearer(key)),
    "query without credentials": lambda key: get(f"{SEARCH}?api_key={key}"),
    "query of another name": lambda key: get(f"{SEARCH}?filter={key}", bearer(key)),
    "query without a name": lambda key: get(f"{SEARCH}?{key}", bearer(key)),
    "query, encoded": lambda key: get(f"{SEARCH}?a={encoded(key)}", bearer(key)),
    "query of a redirect": lambda key: get(f"/mlflow?api_key={key}"),
    "query of health": lambda key: get(f"/health?api_key={key}"),
    "query of the metrics": lambda key: get(f"/metrics?api_key={key}"),
    "query of the details": lambda key: get(f"/api/health/mlflow/detailed?key={key}", bearer(key)),
    "path": lambda key: get(f"/api/mlflow/{key}", bearer(key)),
    "path, encoded": lambda key: get(f"/api/mlflow/{encoded(key)}", bearer(key)),
    "path of an artifact": lambda key: get(f"{ARTIFACTS}/{key}/a", bearer(key)),
    "path of an artifact, encoded": lambda key: get(f"{ARTIFACTS}/{encoded(key)}", bearer(key)),
    "path of nothing": lambda key: get(f"/{key}"),
    "path with dots": lambda key: get(f"/api/mlflow/{key}/..", bearer(key)),
    "path with another method": lambda key: request("TRACE", f"/api/mlflow/{key}", bearer(key)),
    "fragment": lambda key: get(f"{SEARCH}#{key}", bearer(key)),
    "user in the target": lambda key: get(f"http://ann:{key}@proxy.test{SEARCH}", bearer(key)),
    "cookie": lambda key: get(SEARCH, f"Cookie: api_key={key}"),
    "cookie beside a key": lambda key: get(SEARCH, f"Cookie: session={key}", bearer(key)),
    "two keys": lambda key: get(SEARCH, bearer(key), f"X-API-Key: {OTHER}"),
    "two Authorizations": lambda key: get(SEARCH, bearer(key), bearer(OTHER)),
    "two X-API-Keys": lambda key: get(SEARCH, f"X-API-Key: {OTHER}", f"X-API-Key: {key}"),
    "key and more": lambda key: get(SEARCH, bearer(f"{key} and more")),
    "Basic, not encoded": lambda key: get(SEARCH, f"Authorization: Basic ann:{key}"),
    "Basic, the key alone": lambda key: get(SEARCH, basic(key)),
    "Basic, as the user": lambda key: get(SEARCH, basic(f"{key}:")),
    "unknown scheme": lambda key: get(SEARCH, f"Authorization: Digest {key}"),
    "no scheme": lambda key: get(SEARCH, f"Authorization: {key}"),
    "Proxy-Authorization": lambda key: get(SEARCH, f"Proxy-Authorization: Bearer {key}"),
    "X_API_Key": lambda key: get(SEARCH, f"X_API_Key: {key}"),
    "Script_Name": lambda key: get(SEARCH, f"Script_Name: {key}", bearer(key)),
    "X-Request-ID": lambda key: get(SEARCH, f"X-Request-ID: {key}", bearer(key)),
    "X-Request-ID, refused": lambda key: get(SEARCH, f"X-Request-ID: {key}"),
    "traceparent": lambda key: get(SEARCH, f"traceparent: {key}", bearer(key)),
    "X-Forwarded-For": lambda key: get(SEARCH, f"X-Forwarded-For: {key}", bearer(key)),
    "identity": lambda key: get(SEARCH, f"X-Hokusai-Key-Id: {key}", bearer(key)),
    "MLflow's own header": lambda key: get(SEARCH, f"X-MLflow-Authorization: {key}", bearer(key)),
    "trailer": lambda key: request(
        "PUT",
        f"{ARTIFACTS}/a",
        bearer(key),
        "Transfer-Encoding: chunked",
        body=b"1\r\na\r\n0\r\nX-API-Key: %s\r\n\r\n" % key.encode(),
    ),
    "size of a chunk": lambda key: request(
        "PUT",
        f"{ARTIFACTS}/a",
        bearer(key),
        "Transfer-Encoding: chunked",
        body=b"%s\r\na\r\n0\r\n\r\n" % key.encode(),
    ),
    "Expect": lambda key: get(SEARCH, f"Expect: {key}"),
    "Content-Length": lambda key: get(SEARCH, f"Content-Length: {key}"),
    "Transfer-Encoding": lambda key: get(SEARCH, f"Transfer-Encoding: {key}"),
    "name of a header": lambda key: get(SEARCH, f"{key}: 1", f"X {key}: 1"),
    "header without a colon": lambda key: get(SEARCH, f"Authorization Bearer {key}"),
    "folded header": lambda key: get(SEARCH, f"Authorization:\r\n Bearer {key}"),
    "header with a control character": lambda key: get(SEARCH, bearer(f"{key}\x01")),
    "header that is too long": lambda key: get(SEARCH, bearer(key + "a" * 9000)),
    "too many headers": lambda key: get(SEARCH, *[bearer(key)] * 200),
    "target that is too long": lambda key: get(f"{SEARCH}?key={key}{'a' * 9000}"),
    "method": lambda key: f"{key} / HTTP/1.1\r\n\r\n".encode(),
    "request line without a version": lambda key: f"GET /{key}\r\n\r\n".encode(),
    "another version": lambda key: f"GET /{key} HTTP/9.9\r\n\r\n".encode(),
    "version": lambda key: f"GET / {key}\r\n\r\n".encode(),
    "target that is none": lambda key: f"GET {key} HTTP/1.1\r\n\r\n".encode(),
    "line that ends badly": lambda key: f"GET /{key} HTTP/1.1\nHost: a\n\n".encode(),
    "nothing but the key": lambda key: f"{key}\r\n\r\n".encode(),
}

#: Where a key is content: MLflow's business, and nobody else's. MLflow answers with what it got.
API = "/api/mlflow/api/2.0/mlflow"


def write(path: str, key: str, body: Any, *fields: str) -> bytes:
    return request("POST", f"{API}/{path}", bearer(key), *fields, body=json.dumps(body).encode())


CONTENT: dict[str, Callable[[str], bytes]] = {
    "value of a parameter": lambda key: write(
        "runs/log-parameter", key, {"key": "a", "value": key}
    ),
    "name of a parameter": lambda key: write("runs/log-parameter", key, {"key": key, "value": "a"}),
    "id of a run": lambda key: write("runs/log-metric", key, {"run_id": key}),
    "id of a run, encoded": lambda key: write("runs/log-metric", key, {"run_id": encoded(key)}),
    "name of a run": lambda key: write("runs/create", key, {"run_name": f"my {key}"}),
    "field": lambda key: write("runs/create", key, {key: 1}),
    "several": lambda key: write("traces/delete-traces", key, {"request_ids": [key, key]}),
    "tag": lambda key: write("runs/create", key, {"tags": [{"key": key, "value": key}]}),
    "body that is no JSON": lambda key: request(
        "POST", f"{API}/runs/create", bearer(key), body=f"{{{key}".encode()
    ),
    "body that streams": lambda key: write("runs/create", key, {"run_name": key * 2000}),
    "artifact": lambda key: request("PUT", f"{ARTIFACTS}/a", bearer(key), body=key.encode()),
    "large artifact": lambda key: request(
        "PUT", f"{ARTIFACTS}/a", bearer(key), body=key.encode() * 3000
    ),
    "chunked artifact": lambda key: request(
        "PUT",
        f"{ARTIFACTS}/a",
        bearer(key),
        "Transfer-Encoding: chunked",
        body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(key), key.encode()),
    ),
    "GraphQL": lambda key: request(
        "POST", "/mlflow/graphql", bearer(key), body=json.dumps({"query": key}).encode()
    ),
    "User-Agent": lambda key: get(SEARCH, f"User-Agent: {key}", bearer(key)),
    "Referer": lambda key: get(SEARCH, f"Referer: http://a/?key={key}", bearer(key)),
    "Host": lambda key: get(SEARCH, f"Host: {key.replace('_', '-')}", bearer(key)),
    "tracestate": lambda key: write(
        "runs/create", key, {}, f"traceparent: {TRACE}", f"tracestate: a={key}"
    ),
    "baggage": lambda key: write("runs/create", key, {}, f"baggage: a={key}"),
}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def echo(asked: Received) -> Answer:
    """Repeats the request, in a header, the reason and the body."""
    secret = asked.all("Authorization") + asked.all("User-Agent") + [asked.body.decode("latin-1")]
    said = f"HTTP/1.1 400 {secret[-1][:80]}\r\nX-Echo: {secret[-1][:80]}\r\n"
    return Answer(send(f"{said}Content-Length: {len(asked.body)}\r\n\r\n".encode() + asked.body))


#: What is sent before the client hangs up.
CUT_OFF: dict[str, Callable[[str], bytes]] = {
    "in the request line": lambda key: f"GET {SEARCH}?key={key}".encode(),
    "in a header": lambda key: f"GET {SEARCH} HTTP/1.1\r\nAuthorization: Bearer {key}".encode(),
    "in the body": lambda key: request("POST", SEARCH, bearer(key), "Content-Length: 9", body=b"a"),
}


def put_everywhere(proxy: Proxy, keys: list[str]) -> bytes:
    """Sends each key in each form; returns what the proxy itself said to that."""
    said = b""
    for form in (*RIGHT.values(), *WRONG.values()):
        for key in keys:
            with Wire(proxy.url) as wire:
                answer = wire.ask(form(key), method="GET")
                said += b"" if answer.status == 200 else repr(answer).encode()
    for form in CUT_OFF.values():
        for key in keys:
            with Wire(proxy.url) as wire:
                wire.send(form(key))
    return said


def put_as_content(proxy: Proxy, keys: list[str]) -> None:
    """Sends each key as content; what comes back is MLflow's, and the client's own."""
    for form in CONTENT.values():
        for key in keys:
            with Wire(proxy.url) as wire:
                wire.ask(form(key))


# --- where they are looked for -------------------------------------------------------------------


@contextmanager
def watched(port: int) -> Iterator[bytearray]:
    """Every command that a Redis gets meanwhile."""
    heard = bytearray()
    with socket.create_connection(("127.0.0.1", port), WAIT_LIMIT) as monitor:
        monitor.sendall(b"MONITOR\r\n")
        assert monitor.recv(5) == b"+OK\r\n"
        monitor.settimeout(None)

        def listen() -> None:
            while data := monitor.recv(65536):
                heard.extend(data)

        listening = threading.Thread(target=listen)
        listening.start()
        yield heard
        monitor.shutdown(socket.SHUT_WR)  # both ways, what Redis says next would be a reset
        listening.join()


def everything_in(port: int) -> bytes:
    """Every name and value in a Redis, whatever its type, as it is and as it would be saved."""
    found = b""
    with redis.Redis(port=port) as client:
        for name in client.scan_iter():
            kind = client.type(name)
            read = {b"string": client.get, b"hash": client.hgetall, b"set": client.smembers}
            read |= {b"list": lambda name: client.lrange(name, 0, -1)}
            read |= {b"zset": lambda name: client.zrange(name, 0, -1), b"stream": client.xrange}
            found += name + repr(read[kind](name)).encode() + (client.dump(name) or b"")
    return found


def leaked(keys: list[str], text: bytes) -> set[str]:
    """What stands before each key that is found, plain, percent-encoded or in base64."""
    wanted = [trace for key in keys for trace in traces(key)]
    return {
        haystack[max(0, found.start() - 60) : found.start()].decode("latin-1")
        for haystack in (text, unquote_to_bytes(text))
        for trace in wanted
        if trace in haystack
        for found in re.finditer(re.escape(trace), haystack)
    }


def traces(key: str) -> Iterator[bytes]:
    """The random part of a key, and its three possible forms in the middle of base64."""
    secret = key.removeprefix("hk_test_").encode()
    yield secret
    for shift in range(3):
        whole = base64.b64encode(b"x" * shift + secret)
        yield whole[4:-4]


@pytest.fixture
def keys(auth_service: Any) -> list[str]:
    """A hundred keys, half of them valid, the valid ones with different scopes."""
    scopes: tuple[list[str], ...] = (["admin"], ["write"], ["read"], [])
    valid = [auth_service.create_key(scopes=scopes[number % 4]).key for number in range(50)]
    return valid + [f"hk_test_{secrets.token_hex(22)}" for _ in range(50)]


QUICK_TRACES = {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_BSP_MAX_QUEUE_SIZE": "100000"}
SETTINGS: dict[str, dict[str, str]] = {
    "as usual": {},
    "debugging": {"LOG_LEVEL": "DEBUG", "MLFLOW_PROXY_DEBUG": "true"},
    "debugging in text": {"LOG_LEVEL": "DEBUG", "MLFLOW_PROXY_DEBUG": "1", "LOG_FORMAT": "text"},
    "with traces": {"OTEL_ENABLED": "true", "OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup"},
    "without the auth service": {"LOG_LEVEL": "DEBUG", "HOKUSAI_AUTH_SERVICE_URL": "refused"},
    "without MLflow": {"LOG_LEVEL": "DEBUG", "MLFLOW_SERVER_URL": "refused"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_no_key_is_seen_again(
    start_front: Callable[..., Proxy],
    start_redis: Callable[[], Any],
    upstream: Upstream,
    keys: list[str],
    tmp_path: Path,
    name: str,
) -> None:
    store, folder = start_redis(), tmp_path / "instance"
    with refused_port() as port, watched(store.port) as commands, Collector() as collector:
        settings = {"AUDIT_LOG": str(tmp_path / "audit.log"), **QUICK_TRACES}
        settings |= {
            variable: f"http://127.0.0.1:{port}" if value == "refused" else value
            for variable, value in SETTINGS[name].items()
        }
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
        proxy = start_front(REDIS_URL=store.url, INSTANCE_FOLDER=folder, **settings)
        said = put_everywhere(proxy, keys if name == "debugging" else keys[40:60])
        asked = b"".join(each.head + each.body for each in upstream.requests)
        upstream.answers_by(echo)
        put_as_content(proxy, keys[::9])
        metrics = repr(_ask(proxy, "/metrics")).encode()
        last = _ask(proxy, "/nothing").json["request_id"]
        eventually(lambda: last in proxy.log.read_text(), "the last log line")
        remembered = everything_in(store.port)
        proxy.stop()

    places = {
        "the log": proxy.log.read_bytes(),
        "the audit log": (tmp_path / "audit.log").read_bytes(),
        "a trace": b"".join(collector.raw),
        "Redis": remembered,
        "a command to Redis": bytes(commands),
        "an answer of ours": said,
        "the metrics": metrics,
        "a request to MLflow": asked,
        "the instance's folder": b"".join(
            file.read_bytes() for file in folder.rglob("*") if file.is_file()
        ),
    }
    found = {place: leaked(keys, text) for place, text in places.items()}
    listed = [f"{place}: {before!r}" for place in found for before in sorted(found[place])]
    assert listed == []
    assert all(places[place] for place in ("the log", "a command to Redis", "an answer of ours"))
    assert bool(places["the audit log"]) == (name != "without the auth service")
    assert bool(places["a trace"]) == (name == "with traces")


def _ask(proxy: Proxy, target: str) -> Any:
    with Wire(proxy.url) as wire:
        return wire.ask(get(target))


def test_a_leak_would_be_found() -> None:
    key = "hk_test_0123456789abcdefghijklmnopqrstuvwxyz0123456"
    for text in (
        f"GET /{key} HTTP/1.1",
        encoded(key),
        *(base64.b64encode(f"{user}:{key}".encode()).decode() for user in ("", "a", "an", "ann")),
    ):
        assert leaked([key], b"here: " + text.encode())
    assert not leaked([key], b"hk_test_[removed]")
