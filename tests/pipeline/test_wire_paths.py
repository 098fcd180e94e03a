"""The path that was authorized goes on byte for byte; what could be read two ways goes nowhere."""

from collections.abc import Callable

import pytest

from devstack.proxy import Proxy
from tests.upstreams import Upstream, eventually
from tests.wire import Response, Wire, bearer, call, request

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
RUN = "/api/2.0/mlflow/runs/get"

#: gunicorn.conf.py, limit_request_line; the line's end does not count.
#: With a short Host and a key beside it, the head is below 64 KiB.
LONGEST_LINE = 65_000


def get(front: Proxy, target: str | bytes, key: str) -> Response:
    return call(front.url, "GET", target, bearer(key))


@pytest.mark.parametrize("prefix", ["/api/mlflow", "/mlflow"])
@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/version",
        f"{ARTIFACTS}/a%2Fb",
        f"{ARTIFACTS}/a%2fb",
        f"{ARTIFACTS}/a%20b+c",
        f"{ARTIFACTS}/a%2Bb%25c",
        f"{ARTIFACTS}/%E5%8C%97%E6%96%8E/%e5%8c%97",
        f"{ARTIFACTS}/a;b=c@d~e,f!g$h&i'j(k)l*m:n=o",
        f"{ARTIFACTS}/%61%7E%2D",
        f"{ARTIFACTS}/a%3Fb%23c",
        f"{ARTIFACTS}/{{a}}|^`",
        f"{ARTIFACTS}/...a/b..c/d.",
        f"{ARTIFACTS}/model/",
        f"{RUN}?run_id=",
        f"{RUN}?run_id",
        f"{RUN}?&&a=1&",
        f"{RUN}?run_ids=1&run_ids=2&run_ids=1",
        f"{RUN}?a=%2F%2f%20+%25&b=/x//y?z",
        f"{RUN}?filter=a%20%3D%20%27%E5%8C%97%27",
        f"{RUN}?filter=100%&other=%zz",
        f"{RUN}?a=%c3%bf%00",
        f"{RUN}?a=../b&b=%2e%2e",
        f"{ARTIFACTS}?path=model/data%20set/a..b",
    ],
)
def test_the_target_goes_on_byte_for_byte(
    front: Proxy, upstream: Upstream, key: str, prefix: str, target: str
) -> None:
    assert get(front, prefix + target, key).status == 200
    assert [asked.target for asked in upstream.requests] == [target.encode()]


def test_a_question_mark_alone_asks_for_the_same_resource(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    assert get(front, f"/api/mlflow{RUN}?", key).status == 200
    assert upstream.requests[0].target in (RUN.encode(), RUN.encode() + b"?")


def test_an_absolute_request_target_means_its_path(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    target = f"{RUN}?run_id=%2f"
    assert get(front, f"http://registry.hokus.ai/api/mlflow{target}", key).status == 200
    assert upstream.requests[0].target == target.encode()
    assert upstream.requests[0].one("Host") == upstream.url.removeprefix("http://")


def test_the_path_of_mlflows_own_address_comes_before(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    front = start_front(MLFLOW_SERVER_URL=f"{upstream.url}/behind/here/")
    assert get(front, f"/api/mlflow{RUN}?run_id=%2f", key).status == 200
    assert upstream.requests[0].target == f"/behind/here{RUN}?run_id=%2f".encode()


def test_the_longest_request_line_goes_on(front: Proxy, upstream: Upstream, key: str) -> None:
    target = _target_of_line_length(LONGEST_LINE)
    assert get(front, target, key).status == 200
    assert upstream.requests[0].target == target.removeprefix("/api/mlflow").encode()


@pytest.mark.parametrize("length", [64 * 1024 + 1, 200_000])
def test_a_longer_request_line_is_414(
    front: Proxy, upstream: Upstream, key: str, length: int
) -> None:
    answer = get(front, _target_of_line_length(length), key)
    assert answer.error == (414, "BAD_REQUEST")
    assert "65536" in answer.json["message"]
    assert "POST" not in answer.json["message"]
    assert upstream.requests == []


def _target_of_line_length(length: int) -> str:
    begin = f"/api/mlflow{RUN}?run_ids="
    return begin + "a" * (length - len(f"GET {begin} HTTP/1.1"))


REFUSED_PATHS = {
    "dot segments": f"{ARTIFACTS}/a/../../../mlflow/runs/delete",
    "a dot segment at the end": f"{ARTIFACTS}/a/..",
    "a single dot": f"{ARTIFACTS}/./a",
    "a single dot at the end": f"{ARTIFACTS}/.",
    "encoded dots": f"{ARTIFACTS}/%2e%2e/a",
    "encoded dots in capitals": f"{ARTIFACTS}/%2E%2E/a",
    "half encoded dots": f"{ARTIFACTS}/.%2e/a",
    "the other half": f"{ARTIFACTS}/%2e./a",
    "an encoded single dot": f"{ARTIFACTS}/%2e/a",
    "dots between encoded slashes": f"{ARTIFACTS}/a%2F..%2fb",
    "an encoded slash behind dots": f"{ARTIFACTS}/..%2fb",
    "everything encoded": f"{ARTIFACTS}/%2f%2e%2e%2f",
    "dots right behind the prefix": "/../health",
    "three slashes behind the prefix": "///version",
    "two slashes and an encoded one": "//%2Fversion",
    "two slashes inside": f"{ARTIFACTS}//a",
    "an encoded second slash": f"{ARTIFACTS}/%2fa",
    "two encoded slashes": f"{ARTIFACTS}/a%2f%2fb",
    "a backslash": f"{RUN}%5cb",
    "a backslash in capitals": f"{RUN}%5Cb",
    "a backslash in a route's name": "/api/2.0%5Cmlflow-artifacts/artifacts/a",
    "a plain backslash": f"{ARTIFACTS}/a\\..\\b",
    "NUL": f"{RUN}%00b",
    "a line feed": f"{ARTIFACTS}/a%0Ab",
    "a line feed at the end": f"{RUN}%0a",
    "a carriage return": f"{ARTIFACTS}/a%0d%0aX-Hokusai-User-Id:%20root",
    "delete": f"{RUN}%7F",
    "a bad escape": f"{ARTIFACTS}/%zz",
    "half an escape": f"{ARTIFACTS}/%4",
    "a percent sign at the end": f"{ARTIFACTS}/100%",
    "a percent sign before a letter": f"{ARTIFACTS}/100%ok",
    "not UTF-8": f"{ARTIFACTS}/%ff",
    "an overlong slash": f"{ARTIFACTS}/%c0%af",
    "half a surrogate pair": f"{ARTIFACTS}/%ed%a0%80",
    "a query that is not UTF-8": f"{RUN}?run_id=%ff",
    "a fragment": f"{ARTIFACTS}/a#b",
    "a fragment behind the query": f"{ARTIFACTS}?path=a#b",
}

REFUSED_TARGETS = {name: f"/api/mlflow{path}" for name, path in REFUSED_PATHS.items()} | {
    "an encoded prefix": f"/api/%6dlflow{RUN}",
    "an encoded first letter": f"/%61pi/mlflow{RUN}",
    "an encoded slash in the prefix": f"/api%2Fmlflow{RUN}",
    "an encoded slash behind the prefix": "/mlflow%2fversion",
    "two slashes before the prefix": "//mlflow/version",
    "an absolute target with dots": f"http://proxy.test/api/mlflow{ARTIFACTS}/../x",
    "an absolute target of another scheme": f"ftp://proxy.test/api/mlflow{RUN}",
}


@pytest.mark.parametrize("name", REFUSED_TARGETS)
def test_what_could_be_read_two_ways_is_refused(
    front: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    assert get(front, REFUSED_TARGETS[name], key).error == (400, "BAD_REQUEST")
    assert upstream.requests == []
    assert upstream.connections == 0


@pytest.mark.parametrize(
    "value",
    [
        "..",
        "../secret",
        "a/../b",
        "a/..",
        "%2e%2e/secret",
        "%2E%2E%2Fsecret",
        "..%2fsecret",
        "%252e%252e%252fsecret",
        "%25252e%25252e",
        "a%5c..%5cb",
    ],
)
@pytest.mark.parametrize(
    "target",
    [
        f"{ARTIFACTS}?path=",
        "/get-artifact?run_id=1&path=",
        "/get-artifact?run_id=1&path=a&path=",
        "/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files?artifact_file_path=",
        "/get-artifact?run_id=1&%70ath=",
    ],
)
def test_a_file_parameter_does_not_climb_out(
    front: Proxy, upstream: Upstream, key: str, target: str, value: str
) -> None:
    refused = get(front, f"/api/mlflow{target}{value}", key)
    assert refused.error == (400, "INVALID_PARAMETER_VALUE")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "name",
    [
        "%252e%252e",
        "a/%252e%252e%252fb",
        "%25252e%25252e",
        "a%5c..%5cb",
        "a%255c..%255cb",
        "%252fetc",
        "C:%5Ca",
        "C:/a",
        "%255c%255chost%255cshare",
        "file:/etc/passwd",
        "file:%2500",
        "%25" + "25" * 12 + "2e",
        "http:%252f%252f[",
    ],
)
@pytest.mark.parametrize("where", ["artifacts", "mpu/create", "presigned"])
def test_a_files_name_is_refused_for_what_mlflow_makes_of_it(
    front: Proxy, upstream: Upstream, key: str, where: str, name: str
) -> None:
    target = f"/api/mlflow/ajax-api/2.0/mlflow-artifacts/{where}/{name}"
    assert get(front, target, key).error == (400, "INVALID_PARAMETER_VALUE")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "target",
    [
        f"{ARTIFACTS}/a%25step%251%25timestamp%2517%255c.png",
        f"{ARTIFACTS}/a%5Cb",
        f"{ARTIFACTS}/a%2500",
        f"{ARTIFACTS}?path=a%2517%5Cb",
        f"{ARTIFACTS}?path=.",
        "/api/2.0/mlflow/logged-models/m-1/tags/%252e%252e",
        "/api/2.0/mlflow/registered-models/get?name=%252e%252e%255c",
    ],
)
def test_what_mlflow_takes_for_text_goes_on(
    front: Proxy, upstream: Upstream, key: str, target: str
) -> None:
    assert get(front, f"/api/mlflow{target}", key).status == 200
    assert upstream.requests[0].target == target.encode()


@pytest.mark.parametrize("byte", [b"\x80", b"\xff", b"\x01", b"\x7f", b"\xe5\x8c\x97"])
def test_a_target_that_is_not_ascii_is_refused(
    front: Proxy, upstream: Upstream, key: str, byte: bytes
) -> None:
    target = b"/api/mlflow/api/2.0/mlflow-artifacts/artifacts/a" + byte
    assert get(front, target, key).error == (400, "BAD_REQUEST")
    assert upstream.requests == []


@pytest.mark.parametrize("start", ["", "http://registry.hokus.ai", "HTTPS://registry.hokus.ai"])
@pytest.mark.parametrize("prefix", ["/api/mlflow", "/mlflow"])
def test_one_empty_segment_behind_the_prefix_is_taken_off(
    front: Proxy, upstream: Upstream, key: str, prefix: str, start: str
) -> None:
    assert get(front, f"{start}{prefix}/{RUN}?run_id=%2f", key).status == 200  # RUN has a slash
    assert get(front, f"{start}{prefix}//health/mlflow", "none").status in (200, 503)
    assert upstream.requests[0].target == f"{RUN}?run_id=%2f".encode()
    eventually(
        lambda: [line for line in front.log_lines() if line.get("upstream_path") == RUN],
        "its line in the log",
    )


@pytest.mark.parametrize("path", ["/api/mlflow", "/api/mlflow/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_the_tracking_uri_itself_is_404_and_says_so(
    front: Proxy, upstream: Upstream, method: str, path: str
) -> None:
    """With a slash it is what is left of a pasted address with a fragment."""
    answer = call(front.url, method, path)
    assert answer.error == (404, "ENDPOINT_NOT_FOUND")
    assert "without a '#' after it" in answer.json["message"]
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/api/mlflow/", "/mlflow/", "/mlflow//"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_mlflows_client_gets_no_page(
    front: Proxy, upstream: Upstream, key: str, method: str, path: str
) -> None:
    """Its tracking URI ends in a pasted fragment, which hides the rest of each path."""
    for client in ("mlflow-python-client/2.3.2", "mlflow-java-client/3.6.0"):
        answer = call(front.url, method, path, bearer(key), f"User-Agent: {client}")
        assert answer.error == (404, "ENDPOINT_NOT_FOUND")
        assert "without a '#' after it" in answer.json["message"]
    assert upstream.requests == []


def test_mlflow_without_a_slash_is_redirected_with_its_query(front: Proxy) -> None:
    answer = call(front.url, "GET", "/mlflow?a=%2f&a=b")
    assert (answer.status, answer.one("Location")) == (308, "/mlflow/?a=%2f&a=b")


@pytest.mark.parametrize(
    "target", ["/", "/api/mlflow", "/api/mlflowx/version", "/API/MLFLOW/version"]
)
def test_everything_else_is_404(front: Proxy, upstream: Upstream, key: str, target: str) -> None:
    assert get(front, target, key).error == (404, "ENDPOINT_NOT_FOUND")
    assert upstream.requests == []


def test_requests_on_one_connection_are_answered_in_order(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    """Pipelined (RFC 9112 section 9.3.2), so that a refused one cannot shift the others."""
    asked = [f"/api/mlflow{RUN}?a=1", "/api/mlflow/a/..", f"/api/mlflow{RUN}?a=2"]
    with Wire(front.url) as wire:
        wire.send(b"".join(request("GET", target, bearer(key)) for target in asked))
        assert [wire.read().status for _ in asked] == [200, 400, 200]
    assert [asked.target[-3:] for asked in upstream.requests] == [b"a=1", b"a=2"]
