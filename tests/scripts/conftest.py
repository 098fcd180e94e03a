"""The check scripts as their users run them: a process of its own, in an empty folder."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devstack.environments import ROOT

SCRIPTS = ROOT / "scripts"
QUIET_KEY = "hk_test_a0b1c2d3e4f5a6b7c8d9"  # of no use anywhere


@dataclass(frozen=True)
class Finished:
    """A script that has ended."""

    status: int
    out: str
    err: str

    def report(self) -> dict[str, Any]:
        """The document of a run with --json."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def step(self, name: str) -> dict[str, str]:
        """One step of a run with --json."""
        return next(step for step in self.report()["steps"] if step["name"] == name)


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., Finished]:
    """Run a script to its end: `run_script("test_….py", "--uri", url, key=key, **environment)`.

    Of every run it asks that the key is in no output and that no file is left behind.
    """
    folder = tmp_path / "folder"
    folder.mkdir()

    def run(
        script: str, *arguments: str, key: str = QUIET_KEY, flags: tuple[str, ...] = (), **more: str
    ) -> Finished:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **more}
        if key:
            environment["HOKUSAI_API_KEY"] = key
        done = subprocess.run(
            [sys.executable, *flags, str(SCRIPTS / script), *arguments],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert not key or key not in done.stdout + done.stderr
        assert list(folder.iterdir()) == []
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


Asked = http.server.BaseHTTPRequestHandler
Answering = Callable[[Asked], tuple[int, Mapping[str, str], bytes]]


@pytest.fixture
def serve() -> Iterator[Callable[[Answering], str]]:
    """Start a server that answers every request by a function; returns its address."""
    started: list[http.server.ThreadingHTTPServer] = []

    def start(answering: Answering) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(answering))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        started.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def _handler(answering: Answering) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = answering(self)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    return Handler
