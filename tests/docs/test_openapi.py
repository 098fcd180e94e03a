"""The OpenAPI description of our own paths says what the running proxy does, and so does its page.

schemathesis asks each path what its description promises, some hundred questions, always the same.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.request.errors import ProxyError
from config.version import VERSION
from devstack.ports import HOST
from devstack.proxy import Proxy
from tests.docs.pages import ROOT
from tests.docs.test_api import leaves
from tests.upstreams import Answer, Upstream, send, sized
from tests.wire import Response, call

pytestmark = pytest.mark.timeout(300)

FILE = ROOT / "app/browser/api_description/openapi.json"
DOCUMENT = json.loads(FILE.read_text(encoding="utf-8"))
PAGE = "/api/health/docs"

#: A machine that is busy for a moment is not an outage.
SETTINGS = {
    "WEB_CONCURRENCY": "1",
    "REDIS_TIMEOUT": "5",
    "AUTH_TIMEOUT": "20",
    "HEALTH_TIMEOUT": "20",
    "MLFLOW_CONNECT_TIMEOUT": "20",
    "AUTH_FAILURE_LIMIT": "1000000",
    "CIRCUIT_FAIL_MAX": "1000000",
    "MLFLOW_RETRY_DEADLINE": "0",
}


def fake_mlflow() -> Upstream:
    """A fake MLflow that answers everything with 200 and JSON."""
    fake = Upstream()
    fake.answers(Answer(send(sized(b"{}", 200, ("Content-Type", "application/json")))))
    return fake


@pytest.fixture(scope="module")
def start(auth_service: Any, redis_url: str, servers: Path) -> Iterator[Any]:
    """Start a proxy before an MLflow at that address."""
    started: list[Proxy] = []

    def start(mlflow: str) -> Proxy:
        upstreams = {
            "MLFLOW_SERVER_URL": mlflow,
            "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
            "REDIS_URL": redis_url,
        }
        folder = servers / f"openapi-{len(started)}"
        started.append(Proxy(folder, SETTINGS | upstreams, ready="/health"))
        started[-1].start()
        started[-1].wait_until_ready()
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def described(start: Any) -> Iterator[Proxy]:
    """A proxy before a fake MLflow."""
    with fake_mlflow() as fake:
        yield start(fake.url)


@pytest.fixture(scope="module")
def key(auth_service: Any) -> str:
    """A key that may do everything."""
    return str(auth_service.create_key(scopes=["admin"]).key)


def compare(
    document: Path, proxy: Proxy, key: str, folder: Path, *more: str
) -> "subprocess.CompletedProcess[str]":
    """What schemathesis finds where the proxy does not do as the document says."""
    program = Path(sys.executable).with_name("schemathesis")
    configuration = ROOT / "tests/docs/schemathesis.toml"
    options = ["--url", proxy.url, "--header", f"Authorization: Bearer {key}", "--no-color", *more]
    return subprocess.run(
        [str(program), "--config-file", str(configuration), "run", str(document), *options],
        cwd=folder,
        env=os.environ | {"PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.slow
def test_the_proxy_does_as_described(described: Proxy, key: str, tmp_path: Path) -> None:
    done = compare(FILE, described, key, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout


@pytest.mark.slow
def test_its_errors_are_as_described_while_mlflow_is_away(
    start: Any, key: str, tmp_path: Path
) -> None:
    with socket.socket() as nobody:  # holds a port without listening: connections are refused
        nobody.bind((HOST, 0))
        away = start(f"http://{HOST}:{nobody.getsockname()[1]}")
        done = compare(FILE, away, key, tmp_path, "--exclude-checks", "not_a_server_error")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_wrong_description_would_be_found(described: Proxy, key: str, tmp_path: Path) -> None:
    wrong = json.loads(FILE.read_text(encoding="utf-8"))
    wrong["components"]["schemas"]["Alive"]["properties"]["version"] = {"type": "integer"}
    document = tmp_path / "wrong.json"
    document.write_text(json.dumps(wrong))
    done = compare(document, described, key, tmp_path, "--include-path", "/health")
    assert done.returncode == 1
    assert "violates schema" in done.stdout, done.stdout


def test_each_route_is_described_and_nothing_else() -> None:
    script = "import wsgi; print(*(rule.rule for rule in wsgi.app.url_map.iter_rules()))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"REDIS_URL": "memory://"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    rules = {re.sub(r"<\w+:(\w+)>", r"{\1}", rule) for rule in done.stdout.split()}
    prefixes = {rule for rule in rules if rule.endswith("/")}  # {rest} being empty
    assert rules - prefixes == DOCUMENT["paths"].keys()


def test_version_and_error_codes_are_those_of_the_code() -> None:
    codes = {error.code for error in leaves(ProxyError)}
    assert set(DOCUMENT["components"]["schemas"]["Error"]["properties"]["error_code"]["enum"]) == (
        codes
    )
    assert DOCUMENT["info"]["version"] == VERSION


def test_every_status_of_an_error_is_described_where_mlflow_is_behind() -> None:
    described = DOCUMENT["components"]["pathItems"]["Proxied"]["post"]["responses"]
    ours = {str(error.status) for error in leaves(ProxyError) if error.__name__ != "NoSuchPath"}
    assert ours - {"405"} <= described.keys()


def test_the_file_is_served_as_it_is(described: Proxy) -> None:
    answer = call(described.url, "GET", "/api/health/openapi.json")
    assert (answer.status, answer.one("Content-Type")) == (200, "application/json")
    assert answer.body == FILE.read_bytes()


class Tags(HTMLParser):
    """A page's tags, ids and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids |= {str(value) for name, value in attrs if name == "id"}
        self.links |= {str(value) for name, value in attrs if name in ("href", "src")}


@pytest.fixture(scope="module")
def page(described: Proxy) -> Response:
    """The rendered page."""
    return call(described.url, "GET", PAGE)


def test_the_page_names_all_that_is_described(page: Response) -> None:
    text = page.body.decode()
    assert page.status == 200
    assert [path for path in DOCUMENT["paths"] if f">{path}<" not in text] == []
    assert [name for name in DOCUMENT["components"]["schemas"] if f'id="{name}"' not in text] == []
    assert "{&#39;" not in text, "a piece of the document that the template does not know"


def test_the_page_is_whole_by_itself(page: Response) -> None:
    tags = Tags(page.body.decode())
    assert "script" not in tags.tags
    assert {link for link in tags.links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in tags.links if link.startswith("#")} <= tags.ids
    assert "default-src 'none'" in str(page.one("Content-Security-Policy"))
