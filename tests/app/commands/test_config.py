"""`flask config check`: the settings that count, no secret among them, and every complaint."""

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from config import Settings
from tests.app.doctor.conftest import Finished

Flask = Callable[..., Finished]


def checked(flask: Flask, **environment: str) -> dict[str, Any]:
    done = flask("config", "check", "--json", **environment)
    assert done.status == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_every_setting_is_shown_as_it_came_out(flask: Flask) -> None:
    done = flask("config", "check", MLFLOW_READ_TIMEOUT="45", MLFLOW_PROXY_DEBUG="yes")
    assert done.status == 0
    shown = dict(line.split(maxsplit=1) for line in done.out.splitlines()[:-1])
    assert list(shown) == [setting.metadata["variable"] for setting in fields(Settings)]
    assert shown["MLFLOW_READ_TIMEOUT"] == "45"
    assert shown["MLFLOW_PROXY_DEBUG"] == "true"
    assert shown["BIND"] == "0.0.0.0:8000"
    assert f"{len(shown)} settings" in done.out


def test_no_secret_is_shown(flask: Flask) -> None:
    done = flask(
        "config",
        "check",
        REDIS_URL="rediss://ann:geheim@redis.example:6380/1?ssl_password=geheim",
        AUTH_CACHE_SECRET="geheim",
        MLFLOW_UPSTREAM_TOKEN="geheim",
    )
    assert done.status == 0
    assert "geheim" not in done.out + done.err
    assert "rediss://(hidden)@redis.example:6380/1\n" in done.out
    assert done.out.count("(set, hidden)") == 2


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("redis://:ge%40heim@127.0.0.1:6379/0", "redis://(hidden)@127.0.0.1:6379/0"),
        (
            "rediss+sentinel://[::1]/main?sentinel_password=geheim",
            "rediss+sentinel://[::1]/main",
        ),
        ("rediss+cluster://ann:geheim@a,b:1", "rediss+cluster://(hidden)@a,b:1"),
    ],
)
def test_a_password_is_hidden_whole(flask: Flask, given: str, shown: str) -> None:
    assert checked(flask, REDIS_URL=given)["settings"]["REDIS_URL"] == shown


def test_a_password_that_is_not_encoded_is_refused_and_not_shown(flask_process: Flask) -> None:
    done = flask_process("config", "check", REDIS_URL="redis://:ge@heim@127.0.0.1:6379/0")
    assert done.status == 1
    assert "REDIS_URL has more than one @; percent-encode the password" in done.err
    assert "heim" not in done.out + done.err


@pytest.mark.parametrize("command", [("config", "check"), ("doctor",), ("limits", "show"), ()])
def test_every_complaint_is_said_at_once_by_whatever_command(
    flask_process: Flask, command: tuple[str, ...]
) -> None:
    wrong = {"BIND": "nowhere", "WEB_CONCURRENCY": "many", "MLFLOW_SERVER_URL": "geheim"}
    done = flask_process(*command, **wrong)
    assert done.status == 1
    for variable in ("BIND", "WEB_CONCURRENCY", "MLFLOW_SERVER_URL"):
        assert f"  - {variable} " in done.err
    assert "geheim" not in done.err


def test_what_is_probably_not_meant_is_pointed_at(flask: Flask) -> None:
    found = checked(flask, MLFLOW_SERVER_ULR="http://mlflow:5000", INSTANCES="2", PATH_TO="x")
    assert [doubt.partition(" ")[0] for doubt in found["doubts"]] == [
        "MLFLOW_SERVER_ULR",
        "INSTANCES",
    ]
    assert "MLFLOW_SERVER_URL is, and is not set" in found["doubts"][0]
    assert checked(flask)["doubts"] == []
