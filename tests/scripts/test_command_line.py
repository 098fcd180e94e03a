"""What the scripts ask for, and how they refuse: exit status 2, one line, never the key."""

from typing import Any

import pytest

from app.doctor.command_line import UsageError, read_key, read_target, redactor

SCRIPTS = (
    "test_mlflow_connection.py",
    "test_health_endpoints.py",
    "test_model_registration_complete.py",
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_key_is_a_usage_error(run_script: Any, script: str) -> None:
    done = run_script(script, "--uri", "http://127.0.0.1:1", key="")
    assert done.status == 2
    assert "set HOKUSAI_API_KEY" in done.err


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_package_is_a_usage_error(run_script: Any, script: str) -> None:
    done = run_script(script, "--uri", "http://127.0.0.1:1", flags=("-S",))  # no site-packages
    assert done.status == 2
    assert "pip install requests" in done.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "No address"),
        (("--uri", "sqlite:///a.db"), "must begin with http"),
        (("--uri", "http://me:hk_test_a0b1c2d3e4f5a6b7c8d9@host/"), "must not hold a user"),
        (("--uri", "http://host/?key=hk_test_a0b1c2d3e4f5a6b7c8d9"), "must not hold a user"),
        (("--uri", "http://host:99999"), "port"),
        (("--api-key", "hk_test_a0b1c2d3e4f5a6b7c8d9"), "Unknown: --api-key."),
        (("hk_test_a0b1c2d3e4f5a6b7c8d9",), "an argument too many"),
        (("--uri", "http://host", "--timeout", "0"), "more than 0"),
        (("--uri", "http://host", "--ca-file", "nowhere.pem"), "names no file"),
    ],
)
def test_a_wrong_call_is_refused(
    run_script: Any, arguments: tuple[str, ...], complaint: str
) -> None:
    done = run_script("test_mlflow_connection.py", *arguments)  # which looks for the key
    assert done.status == 2
    assert complaint in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("uri", "root", "prefix", "added"),
    [
        ("http://host:8000/api/mlflow", "http://host:8000", "/api/mlflow", False),
        ("https://host/mlflow/", "https://host", "/mlflow", False),
        ("https://host", "https://host", "/api/mlflow", True),
        ("https://host/", "https://host", "/api/mlflow", True),
        ("https://host/below/api/mlflow", "https://host/below", "/api/mlflow", False),
        ("http://[::1]:8000", "http://[::1]:8000", "/api/mlflow", True),
    ],
)
def test_a_uri_is_taken_apart(uri: str, root: str, prefix: str, added: bool) -> None:
    target = read_target(uri)
    assert (target.root, target.prefix, target.added) == (root, prefix, added)


def test_the_key_comes_from_the_first_variable_that_holds_one() -> None:
    environ = {
        "HOKUSAI_API_KEY": " ",
        "MLFLOW_TRACKING_TOKEN": "b\n",
        "MLFLOW_TRACKING_PASSWORD": "c",
    }
    assert read_key(environ) == ("b", "MLFLOW_TRACKING_TOKEN")


def test_two_keys_in_one_variable_are_refused_without_showing_them() -> None:
    with pytest.raises(UsageError) as refused:
        read_key({"HOKUSAI_API_KEY": "hk_test_a hk_test_b"})
    assert "hk_test" not in str(refused.value)


def test_the_key_is_hidden_in_every_form() -> None:
    redact = redactor("hk_test_a+b")
    assert redact("hk_test_a+b, hk_test_a%2Bb, Basic YXBpLWtleTpoa190ZXN0X2ErYg==") == (
        "[key], [key], Basic [key]"
    )
