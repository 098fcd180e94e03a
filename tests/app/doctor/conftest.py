"""Deployments to be examined, and commands: in this process, or as an operator runs them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from flask.cli import cli

from app.auth.revocations import Revocations
from app.health.faults import FAULTS
from devstack.environments import ROOT
from devstack.proxy import Proxy
from tests.conftest import SHARED_PROXY

#: A machine that is busy for a moment is no fault.
PATIENT = {"HEALTH_TIMEOUT": "25", "MLFLOW_CONNECT_TIMEOUT": "20", "AUTH_TIMEOUT": "20"}


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """The document of a run with --json."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def step(self, name: str) -> dict[str, Any]:
        """One step of it."""
        return next(step for step in self.report["steps"] if step["name"] == name)

    @property
    def not_passed(self) -> list[tuple[str, str, str]]:
        """What a failed assertion should show."""
        steps = self.report["steps"]
        return [
            (step["name"], step["status"], f"{step['fault']} {step['detail']}")
            for step in steps
            if step["status"] != "passed"
        ]


@pytest.fixture
def flask(tmp_path: Path) -> Iterator[Callable[..., Finished]]:
    """Run a command of the app: `flask("doctor", "--url", url, HOKUSAI_API_KEY=key)`. In this
    process, which saves half a second; wsgi.py is loaded anew, with the environment given. The
    thread that hears revocations, which would outlive it, is not started: `revoke` needs it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str, **environment: str) -> Finished:
        own = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | environment
        sys.modules.pop("wsgi", None)
        without_a_thread = patch.object(Revocations, "start")
        with patch.dict(os.environ, own, clear=True), without_a_thread:
            done = CliRunner().invoke(cli, arguments, prog_name="flask")
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Finished(done.exit_code, done.stdout, done.stderr)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def flask_process(tmp_path: Path) -> Callable[..., Finished]:
    """The same in a process of its own."""

    def run(*arguments: str, **environment: str) -> Finished:
        own = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "flask", *arguments],
            cwd=ROOT,
            env=own | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def examine(flask: Callable[..., Finished]) -> Callable[..., Finished]:
    """`flask doctor --json` of a deployment: `examine(url, key, "--read-only")`. The key is in no
    output. What it looks at from here is waited for as by the proxy."""

    def run(url: str, key: str, *arguments: str, **environment: str) -> Finished:
        patient = PATIENT | {"REDIS_TIMEOUT": "5", "HOKUSAI_API_KEY": key}
        done = flask("doctor", "--url", url, "--json", *arguments, **patient | environment)
        assert key not in done.out + done.err
        assert set(done.report["faults"]) <= {fault.code for fault in FAULTS.values()}
        return done

    return run


@pytest.fixture(scope="session")
def proxy(servers: Path, auth_service: Any, redis_url: str, mlflow_server: Any) -> Iterator[Proxy]:
    """A proxy with nothing wrong, as the session's, and more patient."""
    upstreams = {
        "MLFLOW_SERVER_URL": mlflow_server.url,
        "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
        "REDIS_URL": redis_url,
    }
    server = Proxy(servers / "patient-proxy", SHARED_PROXY | PATIENT | upstreams)
    server.start()
    server.wait_until_ready()
    yield server
    server.kill()


@pytest.fixture
def key(auth_service: Any) -> str:
    """A key that may read and write."""
    return str(auth_service.create_key(user="operator", scopes=["read", "write"]).key)
