"""What `make run` prints once all is up, and the API key in it."""

import os
import re
import time
from pathlib import Path

import requests

from devstack.auth_service.keys import Grant, KeyStore
from devstack.data_folder import BASE, DataFolder, write_private
from devstack.stack import Stack

TEMPLATE = """
Ready. The servers' logs are in {logs}.

  Tracking URI   {api}
  API key        {key}
  Web interface  {url}/mlflow/  (sign in with the key)

Python:

  import os, mlflow
  os.environ.update(MLFLOW_TRACKING_URI="{api}", MLFLOW_TRACKING_TOKEN="{key}")
  mlflow.set_experiment("first")
  mlflow.log_metric("loss", 0.25)

Shell:

  export MLFLOW_TRACKING_URI={api}
  export MLFLOW_TRACKING_TOKEN={key}

  .venv/bin/python scripts/test_model_registration_complete.py   # tries it all

No mlflow at hand? .venv/bin/python has it. A key for someone else, and its end:

  .venv/bin/python -m devstack.auth_service create --user ann{database}
  .venv/bin/python -m devstack.auth_service revoke KEY_ID --redis-url {redis_url}{database}

Ctrl-C ends everything; experiments and keys stay in {folder}.
"""


TEAMS_TEMPLATE = """Two teams share this MLflow, and neither sees the other's work:

  team-a   {keys[team-a]}   (the key above)
  team-b   {keys[team-b]}
  admin    {keys[admin]}   (names its workspace: export MLFLOW_WORKSPACE=team-b)

The guide is docs/tenants.md.
"""

#: The workspaces, and whose key each of the two gets.
TEAMS = ("team-a", "team-b")

#: May do everything.
ADMIN = "admin"


def welcome(stack: Stack, data: DataFolder) -> str:
    """Return the text, with everything that a first-time user needs to paste."""
    database = stack.auth.database
    keys = _team_keys(stack, data) if stack.workspaces else {}
    text = TEMPLATE.format(
        logs=data.logs,
        api=stack.proxy.api,
        url=stack.proxy.url,
        key=keys.get(TEAMS[0]) or key_in(data.key_file(), database, ("read", "write")),
        # The commands find the first run's database by default.
        database="" if database.parent == BASE else f" --database {database}",
        redis_url=stack.redis_url,
        folder=data.folder,
    )
    return text + ("\n" + TEAMS_TEMPLATE.format(keys=keys) if keys else "")


def _team_keys(stack: Stack, data: DataFolder) -> dict[str, str]:
    """Make each team's workspace and key, and the operator's key; return the keys by name."""
    database = stack.auth.database
    keys = {ADMIN: key_in(data.key_file(ADMIN), database, (ADMIN,))}
    for name in TEAMS:
        scopes = ("read", "write", f"workspace:{name}")
        keys[name] = key_in(data.key_file(name), database, scopes)
        made = requests.post(
            f"{stack.proxy.api}/api/3.0/mlflow/workspaces",
            json={"name": name},
            headers={"Authorization": f"Bearer {keys[ADMIN]}"},
            timeout=30,
        )
        if made.status_code != 400:  # it is there from an earlier run
            made.raise_for_status()
    return keys


def key_in(path: Path, database: Path, scopes: tuple[str, ...]) -> str:
    """Return the key in the file; make and store one if that is missing or not active.

    It is reused because the experiments are: yesterday's `export` in a shell still works. It has no
    limit.
    """
    store = KeyStore(database)
    if path.exists():
        key = store.find(secret := path.read_text().strip())
        if key is not None and key.state(time.time()) == "active":
            return secret
    grant = Grant(user_name(), scopes=scopes, rate_limit_per_hour=None)
    secret, _ = store.create(grant, test=True)
    write_private(path, secret + "\n")
    return secret


def user_name() -> str:
    """Return the current user's name, if the environment has one that fits a header."""
    name = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    return name if re.fullmatch(r"[!-~]{1,128}", name) else "you"
