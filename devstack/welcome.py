"""What `make run` prints once all is up."""

from pathlib import Path

from devstack.stack import Stack
from devstack.workspace import BASE, Workspace

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


def welcome(stack: Stack, workspace: Workspace, key: str) -> str:
    """The text, with everything that a first-time user needs to paste."""
    return TEMPLATE.format(
        logs=workspace.logs,
        api=stack.proxy.api,
        url=stack.proxy.url,
        key=key,
        database=_database_option(stack.auth.database),
        redis_url=stack.redis_url,
        folder=workspace.folder,
    )


def _database_option(database: Path) -> str:
    """Which keys a command is about; not needed for those of the first run, its default."""
    return "" if database.parent == BASE else f" --database {database}"
