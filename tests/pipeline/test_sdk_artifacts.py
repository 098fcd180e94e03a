"""Artifacts up and down with MLflow's SDK: what comes back has the checksum of what went in."""

import hashlib
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import mlflow
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

MB = 1024 * 1024

#: Names that the SDK itself sends correctly; it does not quote them.
NAMES = [
    "with space.txt",
    "100% done.txt",
    "a+b.txt",
    "naïve 模型 🧪.txt",
    "a=b&c,d;e@f!g$h'(i).txt",
    "no-suffix",
]

#: The SDK cuts a name at `?`, with or without a proxy, because it does not quote; whoever quotes
#: gets it through. A name with "%41" in it does not exist: MLflow decodes it until it is "A".
NAMES_FOR_REST = [*NAMES, "what?.txt", "back`tick{|}^~.txt"]

#: Not with an apostrophe in it: the SDK puts a folder's name into a filter, unquoted as well.
FOLDER = "naïve folder, 100% a+b"


@pytest.mark.parametrize("size", [0, 1, 20 * MB], ids=["empty", "1 byte", "20 MB"])
def test_a_file_of_any_size_comes_back(client: Any, run: str, tmp_path: Path, size: int) -> None:
    assert round_trip(client, run, tmp_path, "data.bin", random.randbytes(size)) == size


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_comes_back(client: Any, run: str, tmp_path: Path, name: str) -> None:
    assert round_trip(client, run, tmp_path, name, name.encode()) == len(name.encode())


def round_trip(client: Any, run: str, scratch: Path, name: str, content: bytes) -> int:
    """Send a file, find it in the list, fetch it and compare the checksums; the size that the list
    tells."""
    sent = scratch / "up" / name
    sent.parent.mkdir()
    sent.write_bytes(content)
    client.log_artifact(run, str(sent), FOLDER)
    sizes = {item.path: item.file_size for item in client.list_artifacts(run, FOLDER)}
    down = scratch / "down"
    down.mkdir()
    got = Path(client.download_artifacts(run, f"{FOLDER}/{name}", str(down)))
    assert checksum(got.read_bytes()) == checksum(content)
    assert sizes.keys() == {f"{FOLDER}/{name}"}
    return int(sizes[f"{FOLDER}/{name}"] or 0)


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", NAMES_FOR_REST)
def test_a_quoted_name_goes_on_as_it_was_quoted(
    client: Any, run: str, tracking_uri: str, writer: str, name: str
) -> None:
    url = artifact_url(client, run, tracking_uri, name)
    sent = requests.put(url, data=name.encode(), headers=bearer(writer), timeout=60)
    assert sent.status_code == 200, sent.text
    assert [item.path for item in client.list_artifacts(run)] == [name]
    got = requests.get(url, headers=bearer(writer), timeout=60)
    assert (got.status_code, got.content) == (200, name.encode())


@pytest.mark.parametrize(
    ("name", "stored"),
    [("a%20b.txt", "a b.txt"), ("a?b.txt", "a"), ("a#b.txt", "a"), ("a%41.txt", "aA.txt")],
)
def test_the_guide_says_which_names_the_sdk_changes(
    client: Any, run: str, name: str, stored: str
) -> None:
    client.log_text(run, "x", name)
    assert [item.path for item in client.list_artifacts(run)] == [stored]


def test_a_name_with_a_hash_sign_is_refused_by_mlflow_itself(
    client: Any, run: str, tracking_uri: str, writer: str
) -> None:
    url = artifact_url(client, run, tracking_uri, "report #1.txt")
    sent = requests.put(url, data=b"x", headers=bearer(writer), timeout=60)
    assert (sent.status_code, sent.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "request_id" not in sent.json()
    assert client.list_artifacts(run) == []


def artifact_url(client: Any, run: str, tracking_uri: str, name: str) -> str:
    """Where an artifact of a run is, its name quoted."""
    root = urlsplit(client.get_run(run).info.artifact_uri).path.strip("/")
    return f"{tracking_uri}/api/2.0/mlflow-artifacts/artifacts/{root}/{quote(name, safe='')}"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_folder_is_sent_listed_and_fetched_with_all_below_it(
    client: Any, run: str, tmp_path: Path
) -> None:
    tree = {"a.txt": b"a", "deep/b c.txt": b"bc", "deep/er/empty": b""}
    for name, content in tree.items():
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(content)
    client.log_artifacts(run, str(tmp_path / "up"), "all")

    listed = {item.path: item.is_dir for item in client.list_artifacts(run, "all")}
    assert listed == {"all/a.txt": False, "all/deep": True}
    (tmp_path / "down").mkdir()
    fetched = Path(client.download_artifacts(run, "all", str(tmp_path / "down")))
    files = (path for path in fetched.rglob("*") if path.is_file())
    assert {str(path.relative_to(fetched)): path.read_bytes() for path in files} == tree


def test_text_and_tables_are_logged_without_a_file(client: Any, run: str) -> None:
    client.log_text(run, "naïve 模型", "notes/text.txt")
    client.log_dict(run, {"a": [1, 2]}, "notes/data.json")
    uri = client.get_run(run).info.artifact_uri
    assert mlflow.artifacts.load_text(f"{uri}/notes/text.txt") == "naïve 模型"
    assert mlflow.artifacts.load_dict(f"{uri}/notes/data.json") == {"a": [1, 2]}


def test_the_artifacts_of_a_run_are_deleted(client: Any, run: str) -> None:
    for name in ("kept.txt", "folder/a b.txt", "folder/100%.txt"):
        client.log_text(run, "x", name)
    artifacts = get_artifact_repository(client.get_run(run).info.artifact_uri)
    artifacts.delete_artifacts("folder")  # type: ignore[no-untyped-call]
    assert [item.path for item in client.list_artifacts(run)] == ["kept.txt"]
    artifacts.delete_artifacts()  # type: ignore[no-untyped-call]
    assert client.list_artifacts(run) == []


def test_an_artifact_that_is_not_there_is_an_error(client: Any, run: str, tmp_path: Path) -> None:
    with pytest.raises(MlflowException, match="nowhere"):
        client.download_artifacts(run, "nowhere.txt", str(tmp_path))


def test_the_web_interface_fetches_an_artifact_by_its_query(
    client: Any, run: str, tracking_uri: str, writer: str
) -> None:
    client.log_text(run, "seen", "a folder/100% a+b.txt")
    got = requests.get(
        f"{tracking_uri}/get-artifact",
        params={"path": "a folder/100% a+b.txt", "run_uuid": run},
        headers=bearer(writer),
        timeout=60,
    )
    assert (got.status_code, got.text) == (200, "seen")
    assert "attachment" in got.headers["Content-Disposition"]


def test_a_part_of_an_artifact_is_fetched_by_its_range(
    client: Any, run: str, tracking_uri: str, writer: str
) -> None:
    client.log_text(run, "0123456789", "digits.txt")
    url = artifact_url(client, run, tracking_uri, "digits.txt")
    got = requests.get(url, headers=bearer(writer) | {"Range": "bytes=2-4"}, timeout=60)
    assert (got.status_code, got.text) == (206, "234")
    assert got.headers["Content-Range"] == "bytes 2-4/10"
