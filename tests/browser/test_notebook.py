"""A trace in a notebook: MLflow's page for it, in a frame."""

from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.browser.chromium import Chromium
from tests.browser.test_sign_in import sign_in

pytestmark = pytest.mark.slow


def test_the_page_that_a_notebook_frames_shows_the_trace(
    browser: Chromium, proxy: Proxy, exhibits: Any, reader: Any
) -> None:
    """At the address that the SDK puts into the frame: below the tracking URI."""
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    sign_in(browser, reader.key)
    browser.find("#root > *")  # signed in, MLflow's page is there
    browser.open(
        f"{proxy.api}/static-files/lib/notebook-trace-renderer/index.html"
        f"?trace_id={exhibits.trace_id}&experiment_id={exhibits.experiment_id}"
    )
    browser.find("#root > *")
    browser.see("Details & Timeline")
