"""Two tenants in a real browser, on MLflow's own pages."""

from pathlib import Path

import pytest

from devstack.mlflow import MLflow
from devstack.proxy import Proxy
from tests.browser.chromium import Chromium
from tests.browser.conftest import _chromium as _chromium  # fixtures
from tests.browser.conftest import browser as browser
from tests.conftest import Key, KeyedAuthService

pytestmark = pytest.mark.slow

PICKER = "[data-component-id=workspace_selector]"

Ids = dict[str, dict[str, str]]


@pytest.fixture
def of_both(auth_service: KeyedAuthService) -> Key:
    """A key that may read in two workspaces; the first is its own."""
    return auth_service.create_key(scopes=["read", "workspace:beta", "workspace:alpha"])


def sign_in(browser: Chromium, proxy: Proxy, key: Key) -> str:
    """Sign in, and return the address of MLflow's pages."""
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    browser.find("#sign-in button")
    browser.type(f"{key.key}\n")
    browser.see("Welcome to MLflow")
    return f"{proxy.url}/mlflow/#"


def arrive(browser: Chromium, url: str) -> None:
    """Load a page anew: a change behind the `#` loads nothing."""
    browser.open("about:blank")
    browser.open(url)


def test_a_key_of_one_workspace_sees_that_one_and_no_picker(
    browser: Chromium, tenants_proxy: Proxy, tenants_keys: dict[str, Key], tenants_ids: Ids
) -> None:
    pages = sign_in(browser, tenants_proxy, tenants_keys["beta"])
    for place in ("experiments", "experiments?workspace=alpha"):
        arrive(browser, f"{pages}/{place}")
        browser.see(tenants_ids["beta"]["experiment_name"], "private-beta-experiment-tag")
        assert tenants_ids["alpha"]["experiment_name"] not in browser.text
        assert browser.run("return document.querySelector(arguments[0])", PICKER) is None
    browser.shot("tenants-one-workspace")
    for tail in ("", "?workspace=alpha"):
        arrive(browser, f"{pages}/experiments/{tenants_ids['alpha']['experiment']}/runs{tail}")
        browser.see("Experiment not found")
        assert "private-alpha" not in browser.text


def test_a_key_of_two_workspaces_goes_from_one_to_the_other(
    browser: Chromium, tenants_proxy: Proxy, of_both: Key, tenants_ids: Ids
) -> None:
    pages = sign_in(browser, tenants_proxy, of_both)
    browser.see("Select a workspace", "alpha", "beta")
    assert "default" not in browser.text
    browser.shot("tenants-two-workspaces")
    browser.click("a", "alpha")
    browser.find(PICKER, "alpha")
    browser.open(f"{pages}/experiments")
    browser.see("private-alpha-experiment-tag")
    assert "private-beta" not in browser.text
    browser.find(f"{PICKER} button, {PICKER}", "alpha").click()
    browser.find("[role=option]", "beta").click()
    browser.find(PICKER, "beta")
    browser.open(f"{pages}/experiments")
    browser.see("private-beta-experiment-tag")
    assert "private-alpha" not in browser.text


def test_a_file_is_downloaded_from_the_workspace_that_is_open(
    browser: Chromium, tenants_proxy: Proxy, of_both: Key, tenants_ids: Ids, tmp_path: Path
) -> None:
    pages, its = sign_in(browser, tenants_proxy, of_both), tenants_ids["alpha"]
    browser.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    place = f"experiments/{its['experiment']}/runs/{its['run']}/artifacts/note"
    arrive(browser, f"{pages}/{place}?workspace=alpha")
    browser.click("button[data-component-id*='_artifactview.tsx_']")
    browser.wait((tmp_path / "note").exists, "the file")
    assert (tmp_path / "note").read_text() == "private-alpha-artifact"


def test_a_workspace_that_is_not_the_keys_shows_an_error_and_nothing_else(
    browser: Chromium, tenants_proxy: Proxy, of_both: Key, tenants_mlflow: MLflow
) -> None:
    pages = sign_in(browser, tenants_proxy, of_both)
    arrive(browser, f"{pages}/experiments?workspace=default")
    browser.see("This API key has no access to the workspace 'default'")
