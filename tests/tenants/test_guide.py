"""The guide's first example, on an MLflow with workspaces, as a reader pastes it."""

import json
import os
import subprocess
from typing import Any

from devstack.proxy import Proxy
from tests.conftest import Key
from tests.docs.pages import ROOT, blocks
from tests.docs.test_examples import interpreter

GUIDE = ROOT / "docs/tenants.md"


def test_two_teams_do_not_see_each_others_work(
    tenants_proxy: Proxy, tenants_keys: dict[str, Key]
) -> None:
    (block,) = (block for block in blocks(GUIDE) if "$TEAM_B" in block.code)
    done = subprocess.run(
        [*interpreter(block), block.code.replace("team-a", "alpha")],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": tenants_proxy.api,
            "TEAM_A": tenants_keys["alpha"].key,
            "TEAM_B": tenants_keys["beta"].key,
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    created, own, foreign, refused = _documents(done.stdout)
    assert created["experiment_id"]
    assert "secret" in [experiment["name"] for experiment in own["experiments"]]
    assert "secret" not in str(foreign)
    assert refused["error_code"] == "PERMISSION_DENIED"


def _documents(text: str) -> list[dict[str, Any]]:
    """The JSON documents that follow each other without a separator."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found
