"""Headless Chromium as a person uses it: open, read, click, type; and what it complains of."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_core_python.selenium import Axe  # type: ignore[import-untyped]
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

#: Seconds until something that should be on the page is given up.
WAIT_LIMIT = 30.0

#: Where each run leaves its pictures; not in the repository.
SCREENSHOTS = Path(__file__).with_name("screenshots")

#: It looks up nothing, and reaches this machine only.
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync
    --disable-dev-shm-usage --disable-extensions --window-size=1300,900
    --host-resolver-rules=MAP\\ *\\ ~NOTFOUND,\\ EXCLUDE\\ 127.0.0.1"""


def programs() -> tuple[str, str] | None:
    """Chromium and its driver, or None where either is missing."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


#: What went over the network: an event's name, and its parameters.
Event = tuple[str, dict[str, Any]]


class Chromium:
    """One browser with a profile of its own, as a context manager."""

    def __init__(self, profile: Path, browser: str, driver: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for flag in FLAGS.replace("\\ ", "\0").split():
            options.add_argument(flag.replace("\0", " "))
        options.add_argument(f"--user-data-dir={profile}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self._driver = webdriver.Chrome(options=options, service=Service(driver))
        self._driver.set_page_load_timeout(WAIT_LIMIT)

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *why: object) -> None:
        self._driver.quit()

    def forget(self) -> None:
        """As a browser that was never here: no cookies, no cache, no log; and a light room."""
        self._driver.get("about:blank")
        for command in ("Network.clearBrowserCookies", "Network.clearBrowserCache"):
            self.command(command)
        self.look("light")
        self.size(1300, 900)
        self.complaints()
        self.events()

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._driver.execute_cdp_cmd(name, parameters)

    def look(self, scheme: str) -> None:
        """The reader prefers "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def size(self, width: int, height: int) -> None:
        """The window's size in pixels."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def offline(self, is_offline: bool) -> None:
        """Takes the network away from the browser, or gives it back."""
        self.command(
            "Network.emulateNetworkConditions",
            offline=is_offline,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    def open(self, url: str) -> None:
        """Goes to an address."""
        self._driver.get(url)

    @property
    def url(self) -> str:
        """The address of the page."""
        return str(self._driver.current_url)

    @property
    def title(self) -> str:
        """The page's title."""
        return str(self._driver.title)

    @property
    def text(self) -> str:
        """What stands on the page."""
        return str(self._driver.execute_script("return document.body.innerText"))

    def run(self, script: str, *arguments: Any) -> Any:
        """A function's body in the page; a promise is waited for."""
        return self._driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Returns what the condition does once that is true."""
        waiting = WebDriverWait(
            self._driver, WAIT_LIMIT, 0.1, ignored_exceptions=[StaleElementReferenceException]
        )
        try:
            return waiting.until(lambda _: condition())
        except Exception as why:
            self.shot("failed")
            raise AssertionError(f"{what} did not come; at {self.url}:\n{self.text}") from why

    def see(self, *texts: str) -> None:
        """Waits until all of these stand on the page."""

        def stands(text: str) -> bool:
            return text in self.text

        for text in texts:
            self.wait(partial(stands, text), repr(text))

    def find(self, css: str, text: str = "") -> WebElement:
        """The first visible element of that kind in which the text stands, waited for."""

        def look() -> WebElement | None:
            found = self._driver.find_elements(By.CSS_SELECTOR, css)
            return next((e for e in found if e.is_displayed() and text in e.text), None)

        element = self.wait(look, f"{css} {text!r}")
        assert isinstance(element, WebElement)
        return element

    def click(self, css: str, text: str = "") -> None:
        """Clicks it, by script: MLflow's tours lie over the page now and then."""
        element = self.find(css, text)
        self._driver.execute_script("arguments[0].click()", element)

    def type(self, text: str) -> None:
        """Types where the cursor is."""
        self._driver.switch_to.active_element.send_keys(text)

    def shot(self, name: str) -> None:
        """A picture for whoever looks at the run."""
        SCREENSHOTS.mkdir(exist_ok=True)
        self._driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))

    def cookies(self) -> list[dict[str, Any]]:
        """All of this browser's cookies, whatever page is open."""
        found: list[dict[str, Any]] = self.command("Network.getAllCookies")["cookies"]
        return found

    def complaints(self) -> set[str]:
        """What stands in the console as an error since last asked: address and text."""
        lines = self._driver.get_log("browser")  # type: ignore[no-untyped-call]
        return {line["message"] for line in lines if line["level"] == "SEVERE"}

    def barriers(self) -> list[str]:
        """What on this page keeps somebody from using it, as axe-core finds it: contrast, labels,
        landmarks, names. Raises AssertionError where there was nothing to look at."""
        found = Axe().run(self._driver)
        assert any(rule["id"] == "color-contrast" for rule in found["passes"] + found["violations"])
        return [
            f"{rule['id']}: {node['html']} ({node['failureSummary']})"
            for rule in found["violations"]
            for node in rule["nodes"]
        ]

    def events(self) -> Iterator[Event]:
        """What went over the network since last asked."""
        lines = [
            json.loads(line["message"])["message"]
            for line in self._driver.get_log("performance")  # type: ignore[no-untyped-call]
        ]
        return iter([(line["method"], line["params"]) for line in lines])


def requested(events: list[Event]) -> set[str]:
    """The addresses that were asked for over HTTP."""
    urls = {
        parameters["request"]["url"]
        for method, parameters in events
        if method == "Network.requestWillBeSent"
    }
    return {url for url in urls if urlsplit(url).scheme in ("http", "https")}


def answered(events: list[Event]) -> list[tuple[str, int]]:
    """Address and status of each response."""
    return [
        (parameters["response"]["url"], parameters["response"]["status"])
        for method, parameters in events
        if method == "Network.responseReceived"
    ]
