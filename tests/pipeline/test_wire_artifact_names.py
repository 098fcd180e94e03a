"""Awkward artifact names, to a real MLflow directly and through the proxy: the same end for both.

What MLflow takes, the proxy passes on, and the file has the same name. What climbs out of its
folder both refuse, with the same code. What the proxy alone refuses stands here, with its reason.
"""

import itertools
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
import requests

from app.request.errors import BadRequest, InvalidName
from app.request.inbound import checked_path
from devstack.environments import CLIENTS, MLFLOW_SERVER, ensure
from devstack.mlflow import MLflow
from devstack.proxy import Proxy
from tests.wire import Response, bearer, call

FILES = "/api/2.0/mlflow-artifacts/artifacts"

#: Parts of names, as they stand on the wire; the second table below puts them together.
PARTS = """
    a %25 %2525 %2e %252e %25252e .. %2F %252F %5C %255C %2500 %250A %2517 C%3A file%3A %2523 %253F
    %20 + %252B %00 %17 %7F %25e4 ~ %25zz %E5%8C%97 ; %3D
""".split()

#: What MLflow's client 2.x, and 3 up to 3.10, calls an image.
IMAGES = [f"a%step%1%timestamp%17%{byte:02x}1e2d.png" for byte in (*range(0, 256, 9), 0x23, 0x5C)]

#: Names of files as their owners see them; a client sends them encoded once.
NAMES = [
    *IMAGES,
    "a~step~1~timestamp~17~0f1e.png",
    "a+step+1+timestamp+17.png",
    "%",
    "%%",
    "100%",
    "100%25",
    "%2e%2e",
    "%252e%252e",
    "a%2Fb",
    "a\\b",
    "a..b",
    "...",
    "caf\u00e9",  # composed
    "cafe\u0301",  # the same, decomposed
    " a",
    "a ",
    "~",
    "~root",
    "a;b",
    "a;b=c,d",
    "a:b",
    "s3:b",
    "mlflow-artifacts:b",
    "C:",
    "C:b",
    "-rf",
    "b" * 255,
    "b" * 256,
    "%41" * 80,
]

#: What MLflow takes, and the proxy does not, because MLflow stores it under another name, or one
#: path could be read in two ways.
REFUSED_HERE_ONLY = {
    "an empty segment": "x//y",
    "an empty segment, encoded": "x%2F%2Fy",
    "a percent sign that escapes nothing": "100%",
    "a folder above, between backslashes": "x%5C..%5Cy",
    "a folder above, between encoded backslashes": "x%255C..%255Cy",
}

#: The last two, among the names that the tables make.
BACKSLASHES = ["..%5C", "..%255C", "%5C..", "%255C.."]


class Pair:
    """The same request to MLflow and to the proxy, each in a folder of its own."""

    def __init__(self, proxy: Proxy, mlflow: MLflow, key: str) -> None:
        self.folder = uuid.uuid4().hex
        self._root = mlflow.artifacts
        self._ways = {"direct": (mlflow.url, ""), "proxied": (proxy.url, "/api/mlflow")}
        self._key = key

    def ask(self, method: str, target: str, body: bytes = b"") -> dict[str, Response]:
        """Both answers; {} in the target is the folder."""
        return {way: self._ask(way, method, target, body) for way in self._ways}

    def _ask(self, way: str, method: str, target: str, body: bytes) -> Response:
        url, prefix = self._ways[way]
        fields = [f"Host: {url.removeprefix('http://')}", bearer(self._key)]
        there = prefix + target.format(f"{self.folder}-{way}")
        return call(url, method, there, *fields, body=body)

    def stored(self) -> dict[str, list[str]]:
        """The files that lie in each folder, and their names."""
        return {way: _files_below(self._root / f"{self.folder}-{way}") for way in self._ways}


def _files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def a_run(mlflow: MLflow) -> str:
    """The id of a new run."""
    return str(_made(mlflow, "runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"])


def a_model(mlflow: MLflow) -> str:
    """The id of a new logged model."""
    made = _made(mlflow, "logged-models", {"experiment_id": "0", "name": "awkward"})
    return str(made["model"]["info"]["model_id"])


def _made(mlflow: MLflow, what: str, body: dict[str, str]) -> Any:
    answer = requests.post(f"{mlflow.url}/api/2.0/mlflow/{what}", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()


def outcome(answer: Response) -> tuple[int, str | None]:
    """Status, and the code of a refusal that has one."""
    in_json = answer.status == 400 and answer.body.startswith(b"{")
    return answer.status, answer.json.get("error_code") if in_json else None


def is_refused_here_only(name: str) -> bool:
    """Whether the proxy refuses a name that MLflow takes."""
    return name in BACKSLASHES or _is_malformed(name)


def _is_malformed(name: str) -> bool:
    try:
        checked_path(f"{FILES}/folder/{name}")
    except InvalidName:
        return False
    except BadRequest:
        return True
    return False


def names_on_the_wire() -> list[str]:
    """Whole names, encoded once; and the parts in all pairs."""
    pairs = [f"{one}{other}" for one, other in itertools.product(PARTS, repeat=2)]
    return [*(quote(name, safe="") for name in NAMES), *pairs]


@pytest.mark.slow
def test_a_name_means_the_same_to_the_proxy_and_to_mlflow(
    proxy: Proxy, mlflow_server: MLflow, key: str
) -> None:
    names = [name for name in names_on_the_wire() if not is_refused_here_only(name)]
    stored = refused = 0
    for name in names:
        pair = Pair(proxy, mlflow_server, key)
        answers = pair.ask("PUT", f"{FILES}/{{}}/{name}", b"x")
        assert outcome(answers["direct"]) == outcome(answers["proxied"]), name
        files = pair.stored()
        assert files["direct"] == files["proxied"], name
        stored += bool(files["proxied"])
        refused += answers["proxied"].status == 400
    assert stored > 500
    assert refused > 50


def test_an_image_of_each_name_that_mlflow_makes_is_stored_listed_and_fetched(
    proxy: Proxy, mlflow_server: MLflow, key: str
) -> None:
    """The uuid behind the last `%` begins with any byte; MLflow takes it for an escape."""
    for name in (name for name in IMAGES if "%23" not in name):  # MLflow refuses that one itself
        pair = Pair(proxy, mlflow_server, key)
        assert pair.ask("PUT", f"{FILES}/{{}}/{quote(name)}", b"x")["proxied"].status == 200
        listed = pair.ask("GET", f"{FILES}?path={{}}")
        assert listed["proxied"].json == listed["direct"].json
        (found,) = [file["path"] for file in listed["proxied"].json["files"]]
        for asked in (found, unquote(found)):  # as MLflow lists it, and as clients 2.12 to 2.15 ask
            answers = pair.ask("GET", f"{FILES}/{{}}/{quote(asked)}")
            assert answers["proxied"].status == answers["direct"].status, name
            assert answers["proxied"].body == answers["direct"].body, name
        assert answers["proxied"].body == b"x" or "\n" in asked, name


@pytest.mark.parametrize("why", REFUSED_HERE_ONLY)
def test_what_the_proxy_alone_refuses(
    proxy: Proxy, mlflow_server: MLflow, key: str, why: str
) -> None:
    pair = Pair(proxy, mlflow_server, key)
    answers = pair.ask("PUT", f"{FILES}/{{}}/{REFUSED_HERE_ONLY[why]}", b"x")
    assert answers["direct"].status == 200
    assert answers["proxied"].error[0] == 400
    assert pair.stored()["proxied"] == []


IMAGES_OF_THE_CLIENT = """
import sys
sys.path.append(sys.argv[1])  # for numpy and Pillow, which the client's environment lacks
import mlflow
from PIL import Image
client = mlflow.MlflowClient()
run = client.create_run("0").info.run_id
for step in (0, 1, 41):
    client.log_image(run, Image.new("RGB", (8, 8)), key="a", step=step, synchronous=True)
names = [file.path for file in client.list_artifacts(run, "images")]
sizes = [len(open(client.download_artifacts(run, name), "rb").read()) for name in names]
print(len(names), all(sizes))
"""


@pytest.mark.slow
def test_the_images_of_mlflows_client_2_are_stored_listed_and_fetched(
    proxy: Proxy, mlflow_python: Path, key: str, tmp_path: Path
) -> None:
    ensure(CLIENTS["2.22"])
    libraries = next((MLFLOW_SERVER.folder / "lib").glob("python3*/site-packages"))
    settings = {"MLFLOW_TRACKING_URI": proxy.api, "MLFLOW_TRACKING_TOKEN": key}
    finished = subprocess.run(
        [CLIENTS["2.22"].python, "-c", IMAGES_OF_THE_CLIENT, libraries],
        env=os.environ | settings | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert finished.stdout.split() == ["6", "True"], finished.stderr


#: As parameters, in which `+` is a blank.
VALUES = [".", "./a", "a/.", "a/../b", "..", "../b", "/etc", "//etc", "%2Fetc", "", "a//b", "a\\b"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [
        f"{FILES}?path=",
        "/get-artifact?run_id={run}&path=",
        "/api/2.0/mlflow/artifacts/list?run_id={run}&path=",
        "/api/2.0/mlflow/logged-models/{model}/artifacts/directories?artifact_directory_path=",
        "/ajax-api/2.0/mlflow/logged-models/{model}/artifacts/files?artifact_file_path=",
    ],
)
def test_a_parameter_means_the_same_to_the_proxy_and_to_mlflow(
    proxy: Proxy, mlflow_server: MLflow, key: str, target: str
) -> None:
    pair = Pair(proxy, mlflow_server, key)
    target = target.replace("{run}", a_run(mlflow_server)).replace(
        "{model}", a_model(mlflow_server)
    )
    values = {quote(name, safe="") for name in NAMES} | set(PARTS) | set(VALUES)
    refused = 0
    for value in sorted(values - set(BACKSLASHES)):
        answers = pair.ask("GET", target + value)
        direct, proxied = outcome(answers["direct"]), outcome(answers["proxied"])
        # Where MLflow fails (500), the proxy may refuse.
        assert direct == proxied or (direct[0], proxied[0]) == (500, 400), (value, direct, proxied)
        refused += proxied == (400, "INVALID_PARAMETER_VALUE")
    assert refused > 5
