"""The three scripts against the real proxy, MLflow and auth service (R18)."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from devstack.ports import free_port

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "scripts"
CONNECTION = "test_mlflow_connection.py"
HEALTH = "test_health_endpoints.py"
REGISTRATION = "test_model_registration_complete.py"
READERS = (CONNECTION, HEALTH)
PREFIXES = ("/api/mlflow", "/mlflow")


@pytest.fixture
def key(auth_service: Any) -> str:
    return str(auth_service.create_key(user="checker", scopes=["read", "write"]).key)


@pytest.fixture
def search(proxy: Any, key: str) -> Callable[[str, str], list[dict[str, Any]]]:
    """Look in MLflow: `search("experiments", "name = 'x'")` gives what is there and not deleted."""

    def look(what: str, filter_string: str) -> list[dict[str, Any]]:
        answer = requests.get(
            f"{proxy.api}/api/2.0/mlflow/{what}/search",
            {"filter": filter_string, "max_results": "9"},
            headers={"X-API-Key": key},
            timeout=10,
        )
        answer.raise_for_status()
        return list(answer.json().get(what.replace("-", "_"), []))

    return look


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("script", READERS)
def test_it_passes_under_both_prefixes(
    run_script: Any, proxy: Any, key: str, script: str, prefix: str
) -> None:
    done = run_script(script, "--uri", proxy.url + prefix, "--json", key=key)
    assert done.status == 0, done.out
    assert done.err == ""
    assert done.report()["passed"] >= 13


@pytest.mark.parametrize("script", READERS)
def test_a_base_gets_the_prefix_and_is_told(
    run_script: Any, proxy: Any, key: str, script: str
) -> None:
    done = run_script(script, key=key, MLFLOW_TRACKING_URI=proxy.url + "/")
    assert done.status == 0, done.out
    assert f"{proxy.url}/api/mlflow" in done.out
    assert "was added" in done.out


@pytest.mark.slow
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_model_is_registered_and_everything_deleted(
    run_script: Any, proxy: Any, key: str, search: Any, mlflow_server: Any, prefix: str
) -> None:
    done = run_script(REGISTRATION, "--uri", proxy.url + prefix, "--json", key=key)
    assert done.status == 0, done.out + done.err
    name = done.report()["called"].split()[0]
    assert search("experiments", f"name = '{name}'") == []
    assert search("registered-models", f"name = '{name}'") == []
    experiment = done.step("experiment created")["detail"].removeprefix("id ")
    assert files_below(Path(mlflow_server.artifacts) / experiment) == []


@pytest.mark.slow
def test_two_registrations_at_once_do_not_meet(run_script: Any, proxy: Any, key: str) -> None:
    def register(_: int) -> Any:
        return run_script(REGISTRATION, "--uri", proxy.api, "--large-mib", "1", key=key)

    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(register, range(2)))
    assert [done.status for done in both] == [0, 0], both


@pytest.mark.slow
def test_keep_leaves_it_all(run_script: Any, proxy: Any, key: str, search: Any) -> None:
    arguments = ("--uri", proxy.api, "--keep", "--large-mib", "1", "--json")
    done = run_script(REGISTRATION, *arguments, key=key)
    assert done.status == 0, done.out
    name = done.report()["called"].split()[0]
    assert [found["name"] for found in search("experiments", f"name = '{name}'")] == [name]
    assert [found["name"] for found in search("registered-models", f"name = '{name}'")] == [name]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["experiment created", "artifact, small", "model registered"])
def test_it_cleans_up_when_it_is_ended_halfway(
    proxy: Any, key: str, search: Any, tmp_path: Path, step: str, number: int
) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HOKUSAI_API_KEY": key}
    command = [sys.executable, str(SCRIPTS / REGISTRATION), "--uri", proxy.api, "--large-mib", "1"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout
        lines = []
        for line in script.stdout:
            lines.append(line)
            if step in line:
                script.send_signal(number)
    out = "".join(lines)
    assert script.returncode == 1, out
    assert "✓ deleted: experiment" in out
    name = next(line.split()[1] for line in lines if "called" in line)
    assert search("experiments", f"name = '{name}'") == []
    assert search("registered-models", f"name = '{name}'") == []


def test_a_key_that_only_reads_is_told_which_scope_it_lacks(
    run_script: Any, proxy: Any, auth_service: Any
) -> None:
    reader = auth_service.create_key(user="reader", scopes=["read"]).key
    done = run_script(REGISTRATION, "--uri", proxy.api, "--json", key=reader)
    assert done.status == 1
    step = done.step("experiment created")
    assert "PERMISSION_DENIED" in step["detail"]
    assert "scope" in step["remedy"]
    assert step["request_id"]
    assert done.report()["failed"] == 1  # there was nothing to clean up, and that is no failure


@pytest.mark.parametrize("script", [CONNECTION, HEALTH, REGISTRATION])
def test_a_wrong_key_fails_with_a_remedy(run_script: Any, proxy: Any, script: str) -> None:
    done = run_script(script, "--uri", proxy.api)
    assert done.status == 1
    assert "401" in done.out
    assert "ask for a new one" in done.out


@pytest.mark.parametrize("script", [CONNECTION, HEALTH, REGISTRATION])
def test_nothing_listening_is_explained(run_script: Any, script: str) -> None:
    done = run_script(script, "--uri", f"http://127.0.0.1:{free_port()}")
    assert done.status == 1
    assert "The proxy refuses connections" in done.out
    assert "Check that it is running" in done.out


def test_settings_of_this_machine_change_nothing(
    run_script: Any, proxy: Any, key: str, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password hk_test_of_netrc\n")
    (tmp_path / ".netrc").chmod(0o600)
    done = run_script(
        CONNECTION, "--uri", proxy.api, key=key, HTTP_PROXY="http://127.0.0.1:9", http_proxy="x:9"
    )
    assert done.status == 0, done.out


@pytest.mark.slow
def test_settings_of_this_machine_do_not_reach_the_sdk(
    run_script: Any, proxy: Any, key: str, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password hk_test_of_netrc\n")
    (tmp_path / ".netrc").chmod(0o600)
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = a\nmlflow_tracking_password = hk_test_of_a_file\n"
    )
    done = run_script(
        REGISTRATION,
        *("--uri", proxy.api, "--large-mib", "1"),
        key=key,
        HTTP_PROXY="http://127.0.0.1:9",
        MLFLOW_REGISTRY_URI="sqlite:///registry.db",
        MLFLOW_EXPERIMENT_NAME="another",
        MLFLOW_TRACKING_USERNAME="a",
        MLFLOW_TRACKING_PASSWORD="hk_test_of_the_environment",
    )
    assert done.status == 0, done.out


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
