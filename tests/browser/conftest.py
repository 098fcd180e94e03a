"""A real browser in front of the session's servers, and something in MLflow to look at."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
from selenium.common.exceptions import WebDriverException

from devstack.environments import ROOT
from tests.browser.chromium import Chromium, programs
from tests.conftest import DEVELOPERS_ENVIRONMENT

MISSING = (
    "there is no Chromium with chromedriver on this machine; on Debian: "
    "apt install chromium chromium-driver"
)

DOES_NOT_START = (
    "Chromium does not start here (it needs a font, such as Debian's fonts-dejavu-core)"
)


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    found = programs()
    if found is None:
        without_a_browser(MISSING)
    with ExitStack() as ends:
        try:
            browser = ends.enter_context(Chromium(tmp_path_factory.mktemp("chromium"), *found))
            browser.forget()
        except WebDriverException as why:
            without_a_browser(f"{DOES_NOT_START}: {str(why).splitlines()[0]}")
        yield browser


def without_a_browser(why: str) -> NoReturn:
    """Skips, or fails under REQUIRE_BROWSER=1."""
    if DEVELOPERS_ENVIRONMENT.get("REQUIRE_BROWSER") == "1":
        pytest.fail(f"REQUIRE_BROWSER=1, and {why}")
    pytest.skip(why)


@pytest.fixture
def browser(_chromium: Chromium) -> Chromium:
    """A browser that was never here."""
    _chromium.forget()
    return _chromium


@dataclass(frozen=True)
class Exhibits:
    """What stands in MLflow: an experiment of 100 runs, the last one with an artifact that is a
    model's version; a trace in it, and a prompt."""

    experiment: str
    experiment_id: str
    run_id: str
    run_name: str
    model: str
    prompt: str
    trace_id: str


@pytest.fixture(scope="session")
def exhibits(mlflow_server: Any) -> Exhibits:
    """Put there past the proxy, once."""
    program = [sys.executable, "-m", "tests.browser.exhibits", mlflow_server.url]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return Exhibits(**json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def reader(auth_service: Any) -> Any:
    """A fresh key that may read: `.key`, `.key_id`."""
    return auth_service.create_key(user="katsushika", scopes=["read"])
