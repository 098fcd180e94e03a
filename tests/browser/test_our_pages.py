"""The proxy's own pages: what they show to whom, and that they please, in light and in dark."""

from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.browser.chromium import Chromium
from tests.browser.test_mlflow_ui import sign_in


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_are_readable_in(
    browser: Chromium, proxy: Proxy, reader: Any, scheme: str
) -> None:
    browser.look(scheme)
    browser.size(1100, 720)
    browser.open(f"{proxy.url}/mlflow/")
    browser.shot(f"sign-in-{scheme}")
    assert too_pale(browser) == []
    browser.open(f"{proxy.url}/status")
    browser.shot(f"status-public-{scheme}")
    assert too_pale(browser) == []
    sign_in(browser, proxy, reader.key)
    browser.size(1100, 900)
    browser.open(f"{proxy.url}/status")
    browser.see("The last 15 minutes")
    browser.shot(f"status-{scheme}")
    assert too_pale(browser) == []
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    browser.shot(f"account-{scheme}")
    assert too_pale(browser) == []


def test_the_status_page_fits_a_phone(browser: Chromium, proxy: Proxy, reader: Any) -> None:
    sign_in(browser, proxy, reader.key)
    browser.size(390, 844)
    browser.open(f"{proxy.url}/status")
    browser.see("Requests a second")
    browser.shot("status-phone")
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


def test_no_page_of_ours_lets_a_foreign_script_run(browser: Chromium, proxy: Proxy) -> None:
    browser.open(f"{proxy.url}/status")
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s)"
    )
    assert browser.run("return window.ran") is None
    assert any("Content Security Policy" in line for line in browser.complaints())


#: Text whose contrast with what lies behind it is below WCAG 2.2's 4.5 : 1.
TOO_PALE = """
const channels = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const back = channels(getComputedStyle(e).backgroundColor);
    if (back.length < 4 || back[3] > 0.9) return light(back);
  }
  return 1;
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const pale = [];
let seen = 0;
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
  if (!text || element.closest("script, noscript")) continue;
  seen += 1;
  const front = light(channels(getComputedStyle(element).color)), back = behind(element);
  const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
  if (contrast < 4.5) pale.push(`${text}: ${contrast.toFixed(1)}`);
}
return seen > 5 ? pale : ["there is nothing to read"];
"""


def too_pale(browser: Chromium) -> list[str]:
    found: list[str] = browser.run(TOO_PALE)
    return found
