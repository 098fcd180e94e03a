"""`flask doctor` on a deployment with nothing wrong, called rightly and wrongly, and broken off."""

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from app.doctor.steps import Failed, Steps
from app.health.faults import FAULTS
from devstack.environments import ROOT
from devstack.proxy import Proxy
from tests.app.doctor.conftest import Finished
from tests.upstreams import refused_port

STEP = {"name", "status", "ms", "detail", "remedy", "request_id", "fault"}


@pytest.fixture
def left(proxy: Proxy, key: str) -> Callable[[str], list[Any]]:
    """What is left in MLflow under a name: experiments and models that are not deleted."""

    def look(name: str) -> list[Any]:
        found = []
        for what in ("experiments", "registered-models"):
            answer = requests.get(
                f"{proxy.api}/api/2.0/mlflow/{what}/search",
                {"filter": f"name LIKE '{name}%'", "max_results": "9"},
                headers={"X-API-Key": key},
                timeout=20,
            )
            answer.raise_for_status()
            found += answer.json().get(what.replace("-", "_"), [])
        return found

    return look


def name_in(done: Finished) -> str:
    """What the experiment and the model were called."""
    return str(done.step("experiment created")["detail"].split(", ")[1])


# --- nothing wrong -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["/api/mlflow", "/mlflow"])
def test_a_deployment_with_nothing_wrong_passes_and_is_left_as_it_was(
    examine: Callable[..., Finished], proxy: Proxy, key: str, left: Any, prefix: str
) -> None:
    done = examine(proxy.url + prefix, key)
    report = done.report
    assert (done.status, report["ok"], report["faults"]) == (0, True, []), done.not_passed
    assert [name for name, status, _ in done.not_passed] == ["TLS handshake"]
    assert left(name_in(done)) == []


def test_the_json_has_one_shape(examine: Callable[..., Finished], proxy: Proxy, key: str) -> None:
    report = examine(proxy.api, key, "--read-only").report
    assert report.keys() >= {"title", "tracking_uri", "key", "ok", "seconds", "faults", "steps"}
    assert report["tracking_uri"] == proxy.api
    assert all(step.keys() == STEP for step in report["steps"])
    counts = {status: report[status] for status in ("passed", "failed", "skipped")}
    assert counts == {
        status: sum(step["status"] == status for step in report["steps"]) for status in counts
    }


def test_read_only_makes_nothing(
    examine: Callable[..., Finished], proxy: Proxy, auth_service: Any
) -> None:
    reader = auth_service.create_key(scopes=["read"]).key
    done = examine(proxy.api, reader, "--read-only")
    assert done.status == 0, done.not_passed
    assert not [step for step in done.report["steps"] if "experiment" in step["name"]]


@pytest.mark.slow
def test_a_large_artifact_is_tried_where_it_is_asked_for(
    examine: Callable[..., Finished], proxy: Proxy, key: str
) -> None:
    done = examine(proxy.api, key, "--large-mib", "60")
    assert done.status == 0, done.not_passed
    assert "same checksum" in done.step("artifact of 60 MB")["detail"]


def test_progress_is_shown_step_by_step(
    flask: Callable[..., Finished], proxy: Proxy, auth_service: Any
) -> None:
    reader = auth_service.create_key(scopes=["read"]).key
    done = flask("doctor", "--url", proxy.api, MLFLOW_TRACKING_TOKEN=reader)
    assert done.status == 1
    assert "✓ DNS knows the host" in done.out
    assert re.search(r"✗ experiment created +[0-9.]+ ms  read-only-key\n", done.out)
    assert "→ Ask for a key with the scope" in done.out
    assert "found: read-only-key" in done.out
    assert reader not in done.out


# --- from inside ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_beside_the_proxy_its_parts_are_looked_at_too(
    examine: Callable[..., Finished], proxy: Proxy, key: str
) -> None:
    done = examine(proxy.api, key, "--read-only", **parts_of(proxy))
    assert done.status == 0, done.not_passed
    assert done.step("Redis, from here")["detail"] == "Redis answers."
    assert done.step("auth service, from here")["detail"] == "The auth service answers."
    assert done.step("MLflow, from here")["detail"] == "MLflow answers."
    outside = examine(proxy.api, key, "--read-only", "--outside", **parts_of(proxy))
    assert not [step for step in outside.report["steps"] if "from here" in step["name"]]


def parts_of(proxy: Proxy) -> dict[str, str]:
    """Where a proxy's parts are, as its own environment says."""
    names = ("MLFLOW_SERVER_URL", "HOKUSAI_AUTH_SERVICE_URL", "REDIS_URL")
    return {name: proxy.environment[name] for name in names}


INSIDE = [
    ("REDIS_URL", "redis://ann:secret@{nowhere}/0", "redis-down", "REDIS_URL"),
    ("HOKUSAI_AUTH_SERVICE_URL", "http://{nowhere}", "auth-service-down", "AUTH_SERVICE_URL"),
    ("HOKUSAI_AUTH_SERVICE_URL", "http://auth.invalid", "auth-service-dns", "Cloud Map"),
    ("MLFLOW_SERVER_URL", "http://{nowhere}", "mlflow-down", "MLFLOW_SERVER_URL"),
    ("MLFLOW_SERVER_URL", "http://mlflow.invalid:5000", "mlflow-dns", "Cloud Map"),
    ("MLFLOW_SERVER_URL", "{proxy}", "loop", "MLflow's own address"),
    ("MLFLOW_SERVER_URL", "{other_name}", "host-check", "--allowed-hosts 127.1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("variable", "value", "fault", "remedy"), INSIDE)
def test_a_wrong_setting_is_found_beside_the_proxy(
    examine: Callable[..., Finished],
    proxy: Proxy,
    key: str,
    variable: str,
    value: str,
    fault: str,
    remedy: str,
) -> None:
    parts = parts_of(proxy)
    with refused_port() as port:
        wrong = value.format(
            nowhere=f"127.0.0.1:{port}",
            proxy=proxy.url,
            other_name=parts["MLFLOW_SERVER_URL"].replace("127.0.0.1", "127.1"),
        )
        done = examine(proxy.api, key, "--read-only", **parts | {variable: wrong})
    assert fault in done.report["faults"], done.not_passed
    step = next(step for step in done.report["steps"] if step["fault"] == fault)
    assert remedy in step["detail"] + step["remedy"]
    assert "secret" not in done.out


# --- called wrongly ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        ((), {"HOKUSAI_API_KEY": "hk_test_1"}, "give --url, or set MLFLOW_TRACKING_URI"),
        (("--url", "http://host"), {}, "No API key: set HOKUSAI_API_KEY (or MLFLOW_TRACKING_TOKEN"),
        (("--url", "http://host", "--key-env", "MINE"), {}, "The variable MINE holds no key"),
        (("--url", "http://host", "--key-file", "nowhere"), {}, "nowhere: No such file"),
        (("--url", "ftp://host"), {"HOKUSAI_API_KEY": "hk_test_1"}, "must begin with http"),
        (("--url", "http://a:hk_test_1@host"), {"HOKUSAI_API_KEY": "hk_test_1"}, "must not hold"),
        (("--url", "http://host"), {"HOKUSAI_API_KEY": "hk_test_1 2"}, "holds a space"),
        (
            ("--url", "http://host", "--timeout", "0"),
            {"HOKUSAI_API_KEY": "hk_test_1"},
            "more than 0",
        ),
        (("--url", "http://host", "--key", "hk_test_1"), {}, "Unknown: --key."),
    ],
)
def test_a_wrong_call_is_refused(
    flask: Callable[..., Finished],
    arguments: tuple[str, ...],
    environment: dict[str, str],
    complaint: str,
) -> None:
    done = flask("doctor", *arguments, **environment)
    assert (done.status, done.out) == (2, "")
    assert complaint in done.err
    assert "hk_test_1" not in done.err.replace("--key hk_test_1", "")


@pytest.mark.parametrize("way", ["a file", "a variable", "the SDK's variable"])
def test_the_key_comes_from_where_nobody_sees_it(
    flask: Callable[..., Finished], proxy: Proxy, key: str, tmp_path: Path, way: str
) -> None:
    file = tmp_path / "key"
    file.write_text(f"{key}\n")
    arguments, environment = {
        "a file": (("--key-file", str(file)), {}),
        "a variable": (("--key-env", "MINE"), {"MINE": key}),
        "the SDK's variable": ((), {"MLFLOW_TRACKING_TOKEN": key}),
    }[way]
    done = flask("doctor", "--read-only", *arguments, **environment, MLFLOW_TRACKING_URI=proxy.api)
    assert done.status == 0, done.out
    assert key not in done.out


# --- broken off ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["experiment created", "artifact of 1 KB", "registered model"])
def test_it_cleans_up_when_it_is_ended_halfway(
    proxy: Proxy, key: str, left: Any, tmp_path: Path, step: str, number: int
) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HOKUSAI_API_KEY": key}
    command = [sys.executable, "-m", "flask", "doctor", "--url", proxy.api]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as doctor:
        assert doctor.stdout
        lines = []
        for line in doctor.stdout:
            lines.append(line)
            if f"✓ {step}" in line:
                doctor.send_signal(number)
    out = "".join(lines)
    assert doctor.returncode == 1, out
    assert "✓ deleted: experiment" in out
    (name,) = set(re.findall(r"hokusai-doctor-\w+-\w+", out))
    assert left(name) == []


# --- what it is made of --------------------------------------------------------------------------

FILES = sorted((ROOT / "app/doctor").glob("*.py"))
OF_THE_SDK = {"registration.py", "sample_model.py", "sdk.py"}  # used by a script alone


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.name not in OF_THE_SDK], ids=lambda file: file.name
)
def test_it_knows_nothing_of_the_app_and_needs_no_mlflow(file: Path) -> None:
    text = file.read_text("utf-8")
    imported = set(
        re.findall(
            r"^ *(?:from|import) (?!app\.doctor\b|app\.health\.faults\b)(\w+)", text, re.MULTILINE
        )
    )
    assert not imported & {"app", "config", "flask", "click", "mlflow", "devstack"}
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text))


def test_every_fault_that_is_named_has_a_meaning() -> None:
    """Keys are in the source as text, those of health after its prefix."""
    texts = {
        node.value
        for file in [*FILES, *(ROOT / "app/health").glob("*.py")]
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    of_redis = {key for key in FAULTS if key.startswith("redis.")}  # app/state/redis_faults.py
    keys = FAULTS.keys() - of_redis - {"auth-service-dns"}  # made of its part's code
    assert [key for key in keys if not {key, key.partition(".")[2]} & texts] == [], "each is used"
    page = (ROOT / "docs/commands.md").read_text("utf-8")
    codes = {fault.code for fault in FAULTS.values()} - {""}
    assert [code for code in codes if f"`{code}`" not in page] == []


def test_a_fault_is_named_once_however_many_steps_show_it() -> None:
    def fails(message: str) -> Callable[[], str]:
        def check() -> str:
            raise Failed(message, fault="dns")

        return check

    steps = Steps("title", {}, redact=str, as_json=True)
    steps.run("first", fails("one"))
    steps.run("second", fails("two"))
    assert {name: found.detail for name, found in steps.faults.items()} == {"dns": "one"}


def test_a_step_that_needs_two_waits_for_both() -> None:
    def fails() -> str:
        raise Failed("no")

    steps = Steps("title", {}, redact=str, as_json=True)
    steps.run("first", lambda: "fine")
    steps.run("second", fails)
    assert not steps.run("third", lambda: "fine", needs=("first", "second"))
    assert steps.results[-1].detail == "needs: second"
