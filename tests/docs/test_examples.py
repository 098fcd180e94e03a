"""The examples in the documentation run as they stand, against the real servers.

A block that no test can run says why, in a comment before it: <!-- not run: the reason -->.
What the comment behind a print says, the example prints.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import PAGES, ROOT, Block, blocks, name
from tests.upstreams import eventually
from tests.wire import bearer, call

#: Not those of the decisions: they are measurements, each with the number it printed when it was
#: made (docs/decisions/README.md says what they need).
WITH_EXAMPLES = [page for page in PAGES if page.parent.name != "decisions"]
EXAMPLES = [block for page in WITH_EXAMPLES for block in blocks(page)]
RUN = [block for block in EXAMPLES if block.language in ("python", "sh") and block.not_run is None]
DATA = [block for page in PAGES for block in blocks(page) if block.language in ("json", "yaml")]

_SAYS = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=str)
def test_an_example_runs(block: Block, environment: dict[str, str], folder: Path) -> None:
    done = subprocess.run(
        [*interpreter(block), block.code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    lines = iter(done.stdout.splitlines())
    for said in _SAYS.findall(block.code):
        assert said in lines, f"{block} does not print {said!r}, but:\n{done.stdout}"


def interpreter(block: Block) -> list[str]:
    """What runs a block: Python, or bash that stops at the first failure."""
    if block.language == "python":
        return [sys.executable, "-c"]
    for program in ("bash", "curl"):
        if program in ("bash", *block.code.split()) and not shutil.which(program):
            pytest.skip(f"there is no {program} on this machine")
    return ["bash", "-euo", "pipefail", "-c"]


REQUEST_ID = "a-documented-request"


@pytest.fixture(scope="module")
def environment(
    proxy: Any, auth_service: Any, mlflow_server: Any, redis_url: str
) -> dict[str, str]:
    """What a reader has set before trying the examples: a user's variables, and an operator's."""
    key = auth_service.create_key(scopes=("read", "write")).key
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    answer = call(
        proxy.api, "GET", "/api/mlflow/version", bearer(key), f"X-Request-ID: {REQUEST_ID}"
    )
    assert answer.status == 200
    eventually(lambda: REQUEST_ID in proxy.log.read_text(), "the line of that request")
    return {
        **os.environ,
        "PATH": path,
        "PYTHONUTF8": "1",
        "MLFLOW_TRACKING_URI": proxy.api,
        "MLFLOW_TRACKING_TOKEN": key,
        "HOKUSAI_API_KEY": key,
        "PROXY": proxy.url,
        "LOG": str(proxy.log),
        "REQUEST_ID": REQUEST_ID,
        "MLFLOW_SERVER_URL": mlflow_server.url,
        "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
        "REDIS_URL": redis_url,
        "REDIS_TIMEOUT": "5",  # on a busy machine
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an example runs: it looks like the top of the repository, and may be littered."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for part in ROOT.iterdir():
        if not part.name.startswith(".") and part.name not in ("docs", "site"):
            (tmp_path / part.name).symlink_to(part)
    return tmp_path


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_a_block_is_run_or_says_why_not(block: Block) -> None:
    assert block.language in ("python", "sh", "json", "yaml", "text"), "a language of its own"
    if block.not_run is not None:
        assert block.language in ("python", "sh"), "nobody would run it anyway"
        assert block.not_run == "AWS only" or len(block.not_run.split()) > 2, "a reason, please"


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name)
def test_each_reason_stands_right_before_its_block(page: Path) -> None:
    comments = re.findall(r"<!--(.*)-->", page.read_text(encoding="utf-8"))
    given = sum(" generated " not in comment for comment in comments)  # what `make bench` writes
    assert given == sum(block.not_run is not None for block in blocks(page))


def test_there_are_examples_in_both_languages() -> None:
    assert {block.language for block in RUN} == {"python", "sh"}
    assert len(RUN) > 12


@pytest.mark.parametrize("block", DATA, ids=str)
def test_what_is_shown_as_data_can_be_parsed(block: Block) -> None:
    parse = json.loads if block.language == "json" else yaml.safe_load
    assert parse(block.code)
