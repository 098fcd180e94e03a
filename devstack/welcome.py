"""What `make run` prints once all is up, and the API key in it."""

import os
import re
import time
from pathlib import Path

from devstack.auth_service.keys import Grant, KeyStore
from devstack.stack import Stack
from devstack.workspace import BASE, Workspace, write_private

TEMPLATE = """
Ready. The servers' logs are in {logs}.

  Tracking URI   {api}
  API key        {key}
  Web interface  {url}/mlflow/  (sign in with the key)

Python:

  import os, mlflow
  os.environ.update(MLFLOW_TRACKING_URI="{api}", MLFLOW_TRACKING_TOKEN="{key}")
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


def welcome(stack: Stack, workspace: Workspace) -> str:
    """Return the text, with everything that a first-time user needs to paste."""
    database = stack.auth.database
    return TEMPLATE.format(
        logs=workspace.logs,
        api=stack.proxy.api,
        url=stack.proxy.url,
        key=first_key(database, workspace.key_file),
        # The commands find the first run's database by default.
        database="" if database.parent == BASE else f" --database {database}",
        redis_url=stack.redis_url,
        folder=workspace.folder,
    )


def first_key(database: Path, path: Path) -> str:
    """Return the key in the file; make and store one if that is missing or not active.

    It is reused because the experiments are: yesterday's `export` in a shell still works. It may
    read and write, without a limit.
    """
    store = KeyStore(database)
    if path.exists():
        key = store.find(secret := path.read_text().strip())
        if key is not None and key.state(time.time()) == "active":
            return secret
    secret, _ = store.create(Grant(user_name(), rate_limit_per_hour=None), test=True)
    write_private(path, secret + "\n")
    return secret


def user_name() -> str:
    """Return the current user's name, if the environment has one that fits a header."""
    name = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    return name if re.fullmatch(r"[!-~]{1,128}", name) else "you"
