"""The API key that `make run` shows: made once, then kept as long as it is good.

It is kept because the experiments are: what was exported in a shell yesterday
still works today.
"""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

from devstack.auth import AuthService
from devstack.environments import ROOT
from devstack.server import ServerFailed
from devstack.workspace import write_private


def first_key(service: AuthService, path: Path) -> str:
    """The key in the file, or a new one, then written there, when it is not (or no longer) good."""
    if path.exists():
        key = path.read_text().strip()
        if is_good(service.url, key):
            return key
    key = _create(service)
    write_private(path, key + "\n")
    return key


def is_good(service_url: str, key: str) -> bool:
    """Whether the auth service takes the key."""
    request = urllib.request.Request(
        f"{service_url}/api/v1/keys/validate",
        data=json.dumps({"service_id": "platform", "client_ip": "127.0.0.1"}).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return "user_id" in json.load(answer)
    except (OSError, ValueError):
        return False


def _create(service: AuthService) -> str:
    """A key to read and write, without a limit, for whoever is at the keyboard."""
    command = [sys.executable, "-m", "devstack.auth_service", "create", "--user", user_name()]
    command += ["--scopes", "read,write", "--limit", "none", "--test", "--json"]
    made = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | service.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise ServerFailed(f"the auth service's create command failed:\n{made.stderr}")
    return str(json.loads(made.stdout)["key"])


def user_name() -> str:
    """Who is at the keyboard, as far as the environment says in a way that fits a header."""
    name = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    return name if re.fullmatch(r"[!-~]{1,128}", name) else "you"
