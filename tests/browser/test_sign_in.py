"""A person signs in, looks around, and signs out; and nobody else can do so for them."""

from pathlib import Path
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.browser.chromium import Chromium

pytestmark = pytest.mark.slow

FORM = "#sign-in button"


def sign_in(browser: Chromium, key: str) -> None:
    """Fills the form that is open; the cursor stands in the field for the key."""
    browser.find(FORM)
    browser.type(f"{key}\n")


def test_a_bad_key_is_told_and_a_good_one_leads_to_where_one_was_going(
    browser: Chromium, proxy: Proxy, exhibits: Any, reader: Any
) -> None:
    place = f"{proxy.url}/mlflow/#/experiments/{exhibits.experiment_id}/runs"
    browser.open(place)
    sign_in(browser, "hk_test_of_nobody")
    browser.see("This API key is not valid")
    browser.shot("sign-in-bad-key")
    sign_in(browser, reader.key)
    browser.see(exhibits.experiment, exhibits.run_name)
    assert browser.url.startswith(place)  # what stood behind the # is still there


def test_the_link_that_the_sdk_prints_leads_to_the_run(
    browser: Chromium, proxy: Proxy, exhibits: Any, reader: Any
) -> None:
    run = f"#/experiments/{exhibits.experiment_id}/runs/{exhibits.run_id}"
    browser.open(f"{proxy.url}/api/mlflow/{run}")
    sign_in(browser, reader.key)
    browser.see(exhibits.run_name, exhibits.run_id)
    assert browser.url == f"{proxy.url}/mlflow/{run}"
    browser.open("about:blank")
    browser.open(f"{proxy.url}/api/mlflow/{run}")
    browser.see(exhibits.run_name, exhibits.run_id)


def test_a_link_to_a_file_asks_for_the_key_and_then_offers_the_file(
    browser: Chromium, proxy: Proxy, exhibits: Any, reader: Any, tmp_path: Path
) -> None:
    browser.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    link = f"{proxy.url}/mlflow/get-artifact?path=notes.txt&run_uuid={exhibits.run_id}"
    browser.open(link)
    sign_in(browser, reader.key)
    browser.see("You are signed in")
    browser.shot("account-file")
    browser.click("a.button", "Open /mlflow/get-artifact")
    browser.wait((tmp_path / "notes.txt").exists, "the file")


def test_the_session_is_a_cookie_that_no_script_sees_and_mlflows_pages_alone_get(
    browser: Chromium, proxy: Proxy, reader: Any
) -> None:
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    sign_in(browser, reader.key)
    browser.see("Experiments")
    cookies = browser.cookies()
    assert {cookie["path"] for cookie in cookies} == {"/mlflow", "/status"}
    assert all(cookie["httpOnly"] and cookie["sameSite"] == "Lax" for cookie in cookies)
    assert all(reader.key not in cookie["value"] for cookie in cookies)
    assert browser.run("return document.cookie") == ""


def test_after_signing_out_the_form_is_back(browser: Chromium, proxy: Proxy, reader: Any) -> None:
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    sign_in(browser, reader.key)
    browser.see("Experiments")
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    browser.see("You are signed in", "katsushika", "read")
    browser.shot("account")
    browser.click("main form button", "Sign out")
    browser.see("You are signed out.")
    assert browser.cookies() == []
    browser.open(f"{proxy.url}/mlflow/")
    browser.find(FORM)


def test_a_revoked_key_ends_the_session(
    browser: Chromium, proxy: Proxy, auth_service: Any, reader: Any
) -> None:
    browser.open(f"{proxy.url}/mlflow/")
    sign_in(browser, reader.key)
    browser.see("Experiments")
    auth_service.revoke(reader.key_id)
    ask = "return (await fetch('version')).status"
    browser.wait(lambda: browser.run(ask) == 401, "the end of the session")
    browser.open(f"{proxy.url}/mlflow/#/experiments")
    browser.run("location.reload()")
    browser.find(FORM)
    browser.see("Your session has ended")


def test_a_form_on_another_site_cannot_write_nor_sign_in_nor_out(
    browser: Chromium, proxy: Proxy, auth_service: Any
) -> None:
    writer = auth_service.create_key(scopes=["read", "write"])
    browser.open(f"{proxy.url}/mlflow/")
    sign_in(browser, writer.key)
    browser.see("Experiments")
    for path in ("ajax-api/2.0/mlflow/upload-artifact", "-/sign-out", "-/sign-in"):
        browser.open(
            f"data:text/html,<form method=post action='{proxy.url}/mlflow/{path}'>"
            "<input name=key value=x><button>Win a print</button></form>"
        )
        browser.click("button", "Win a print")
        browser.see("PERMISSION_DENIED" if path.startswith("ajax") else "This is not allowed")
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    browser.see("You are signed in")


def test_it_all_works_by_keyboard(browser: Chromium, proxy: Proxy, reader: Any) -> None:
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    focused = "return document.activeElement.id || document.activeElement.innerText"
    assert browser.run(focused) == "key"
    browser.type("\t")
    assert browser.run(focused) == "Sign in"
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(outline) == "solid", "where one is must be seen"
