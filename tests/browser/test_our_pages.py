"""The proxy's own pages: what they show to whom, and that they please, in light and in dark."""

from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.browser.chromium import Chromium
from tests.browser.test_mlflow_ui import sign_in

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_the_pages(
    browser: Chromium, proxy: Proxy, reader: Any, scheme: str
) -> None:
    browser.look(scheme)
    browser.size(1100, 720)
    browser.open(f"{proxy.url}/mlflow/")
    browser.shot(f"sign-in-{scheme}")
    assert browser.barriers() == []
    browser.open(f"{proxy.url}/status")
    browser.shot(f"status-public-{scheme}")
    assert browser.barriers() == []
    sign_in(browser, proxy, reader.key)
    browser.size(1100, 900)
    browser.open(f"{proxy.url}/status")
    browser.see("The last 15 minutes")
    browser.shot(f"status-{scheme}")
    assert browser.barriers() == []
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    browser.shot(f"account-{scheme}")
    assert browser.barriers() == []


def test_what_keeps_somebody_out_is_found(browser: Chromium, proxy: Proxy) -> None:
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    browser.run(
        "document.querySelector('label').removeAttribute('for');"
        "document.querySelector('h1').style.color = '#ccc';"
        "document.documentElement.lang = ''"
    )
    found = {barrier.partition(":")[0] for barrier in browser.barriers()}
    assert {"label", "color-contrast", "html-has-lang"} <= found


def test_the_status_page_fits_a_phone(browser: Chromium, proxy: Proxy, reader: Any) -> None:
    sign_in(browser, proxy, reader.key)
    browser.size(390, 844)
    browser.open(f"{proxy.url}/status")
    browser.see("Requests a second")
    browser.shot("status-phone")
    assert browser.barriers() == []
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_without_a_session_the_status_page_is_coarse(browser: Chromium, proxy: Proxy) -> None:
    browser.open(f"{proxy.url}/status")
    browser.see("Everything works", "MLflow answers.", "Redis answers.", "Sign in")
    assert "Requests a second" not in browser.text
    assert " ms" not in browser.text


def test_the_status_page_draws_the_last_minutes_and_refreshes_itself(
    browser: Chromium, proxy: Proxy, reader: Any
) -> None:
    sign_in(browser, proxy, reader.key)
    browser.open(f"{proxy.url}/status")
    browser.complaints()  # those of MLflow's home
    browser.see("Requests a second", "Failed requests", "Time to answer", "katsushika")
    first = browser.find("time").text
    browser.run("window.kept = true")
    browser.wait(lambda: browser.find("time").text != first, "a later time")
    browser.wait(lambda: browser.run("return !!document.querySelector('path.line')"), "a line")
    assert browser.run("return window.kept"), "the page was not loaded anew"
    assert browser.complaints() == set()


def test_a_status_page_that_gets_no_answer_says_so(
    browser: Chromium, proxy: Proxy, reader: Any
) -> None:
    sign_in(browser, proxy, reader.key)
    browser.open(f"{proxy.url}/status")
    browser.see("Everything works")
    browser.offline(True)
    browser.see("The proxy does not respond", "Last known state, of")
    browser.find(".state.unknown")
    browser.shot("status-away")
    assert browser.barriers() == []
    browser.offline(False)
    browser.find(".state.healthy")
    assert "does not respond" not in browser.text


def test_a_status_page_whose_session_ends_says_less(
    browser: Chromium, proxy: Proxy, reader: Any
) -> None:
    sign_in(browser, proxy, reader.key)
    browser.open(f"{proxy.url}/status")
    browser.see("Sign out", "Requests a second")
    browser.run("fetch('/mlflow/-/sign-out', {method: 'POST'})")
    browser.wait(lambda: "Requests a second" not in browser.text, "less")
    browser.find("nav a", "Sign in")


def test_no_page_of_ours_lets_a_foreign_script_run(browser: Chromium, proxy: Proxy) -> None:
    browser.open(f"{proxy.url}/status")
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s)"
    )
    assert browser.run("return window.ran") is None
    assert any("Content Security Policy" in line for line in browser.complaints())
