"""The local auth service and its commands, run for real as processes of their own."""

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).parents[3]
PROGRAM = [sys.executable, "-m", "devstack.auth_service"]
WAIT_LIMIT = 20.0  # seconds until something that should have happened is given up


def environment(database: Path, **more: str) -> dict[str, str]:
    """What a process gets to see: nothing of the machine's, warnings are errors."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "AUTH_SERVICE_DATABASE": str(database),
        **more,
    }


class Service:
    """`serve` on a port that it chooses itself, in `folder`, with its stderr in a file there."""

    def __init__(self, folder: Path, more: Mapping[str, str] | None = None) -> None:
        self.database = folder / "keys.db"
        self.log = folder / "stderr.txt"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, "serve", "--bind", "127.0.0.1:0", "--log-level", "info"],
                cwd=folder,
                env=environment(self.database, **(more or {})),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.session = requests.Session()
        self.session.trust_env = False
        self.url = self._address()

    def ask(self, key: str | None, **changes: Any) -> requests.Response:
        """Ask whether `key` is valid; `changes` are to the body that the proxy sends."""
        return self.session.post(
            f"{self.url}/api/v1/keys/validate",
            json={"service_id": "platform", "client_ip": "203.0.113.7"} | changes,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=WAIT_LIMIT,
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and return the exit status; kills what does not end by itself."""
        self.process.send_signal(number)
        try:
            return self.process.wait(WAIT_LIMIT)
        finally:
            self._clean_up()

    def is_gone(self) -> bool:
        """Whether no process of the service's group is left."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def _address(self) -> str:
        assert self.process.stdout is not None
        spoke = select.select([self.process.stdout], [], [], WAIT_LIMIT)[0]
        found = re.search(r"http://\S+", self.process.stdout.readline()) if spoke else None
        if found is None:
            self.stop()
            raise AssertionError(f"The service did not start:\n{self.log.read_text()}")
        return found[0]

    def _clean_up(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.session.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
