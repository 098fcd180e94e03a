"""MLflow's own pages work behind the prefix as they do alone, for whoever may only look."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.browser.chromium import Chromium, answered, requested

pytestmark = pytest.mark.slow

#: What MLflow's pages ask for at their start and the proxy refuses to everyone: the assistant.
REFUSED = "/ajax-api/3.0/mlflow/assistant/"


def tour(browser: Chromium, base: str, exhibits: Any) -> None:
    """Experiments, runs, a chart of all of them, a run, its artifact, the model, traces, prompts.
    `base` ends with a slash."""
    experiment = f"{base}#/experiments/{exhibits.experiment_id}"
    browser.open(f"{base}#/experiments")
    browser.click("a", exhibits.experiment)
    browser.open(f"{experiment}/runs")
    browser.see(exhibits.run_name, "100 matching runs")
    browser.shot("mlflow-runs")
    browser.open(f"{experiment}/runs?compareRunsMode=CHART")
    browser.see("Model metrics", "loss")
    browser.find(".js-plotly-plot")
    show_all_runs(browser)
    browser.shot("mlflow-chart")
    browser.open(f"{experiment}/runs/{exhibits.run_id}")
    browser.see("Run ID", exhibits.run_id)
    browser.open(f"{experiment}/runs/{exhibits.run_id}/artifacts")
    browser.see("notes.txt")
    browser.run(
        "[...document.querySelectorAll('*')].filter(e => e.textContent.trim() === 'notes.txt')"
        ".pop().click()"
    )
    browser.see("thirty-six views of a mountain")
    browser.shot("mlflow-artifact")
    browser.open(f"{base}#/models/{exhibits.model}/versions/1")
    browser.see("Version 1", exhibits.run_name)
    browser.open(f"{base}#/models")
    browser.see(exhibits.model)
    browser.open(f"{experiment}/traces")
    browser.see("Traces", "cherry wood")
    browser.open(f"{experiment}/traces?selectedEvaluationId={exhibits.trace_id}")
    browser.see("Spans", "carve")
    browser.shot("mlflow-trace")
    browser.open(f"{base}#/prompts")
    browser.see("Prompts", exhibits.prompt)
    browser.open(f"{base}#/prompts/{exhibits.prompt}")
    browser.see("Write a haiku about {{subject}}.")
    browser.shot("mlflow-prompt")


def show_all_runs(browser: Chromium) -> None:
    """The chart that is open shows 10 runs at first."""
    browser.find("[data-testid=experiment-view-runs-visibility-column-header]").click()
    browser.find("[role^=menuitem]", "Show all runs").click()
    browser.wait(lambda: browser.text.count("(loss)") == 100, "a line for each run")


def sign_in(browser: Chromium, proxy: Proxy, key: str) -> None:
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    browser.find("#sign-in button")
    browser.type(f"{key}\n")
    browser.see("Experiments")


def test_the_whole_tour_meets_no_error_that_mlflow_alone_does_not_have(
    browser: Chromium, proxy: Proxy, mlflow_server: Any, exhibits: Any, reader: Any
) -> None:
    tour(browser, f"{mlflow_server.url}/", exhibits)
    alone = said_of(browser, f"{mlflow_server.url}/")
    browser.forget()
    sign_in(browser, proxy, reader.key)
    browser.complaints()
    browser.events()
    tour(browser, f"{proxy.url}/mlflow/", exhibits)
    assert "PERMISSION_DENIED" not in browser.text
    behind = said_of(browser, f"{proxy.url}/mlflow/")
    assert {path for path in behind - alone if not path.startswith(REFUSED[1:])} == set()
    events = list(browser.events())
    ours = {url for url in requested(events) if url.startswith(proxy.url)}
    assert len(ours) > 20
    assert [url for url in ours if not url.startswith(f"{proxy.url}/mlflow/")] == []
    # All runs of a chart are asked for in one line; 4,094 characters are gunicorn's own limit.
    assert {status for url, status in answered(events) if len(url) > 4094} == {200}


def said_of(browser: Chromium, base: str) -> set[str]:
    """The console's errors, by the address below `base` that each is about."""
    return {line.removeprefix(base).split(" ")[0].split("?")[0] for line in browser.complaints()}


def test_an_artifact_is_downloaded_as_it_is(
    browser: Chromium, proxy: Proxy, exhibits: Any, reader: Any, tmp_path: Path
) -> None:
    sign_in(browser, proxy, reader.key)
    browser.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    place = f"experiments/{exhibits.experiment_id}/runs/{exhibits.run_id}/artifacts/notes.txt"
    browser.open(f"{proxy.url}/mlflow/#/{place}")
    browser.see("thirty-six views of a mountain")
    browser.click("button[data-component-id*='_artifactview.tsx_']")
    file = tmp_path / "notes.txt"
    browser.wait(file.exists, "the file")
    assert file.read_text() == "thirty-six views of a mountain"
    path = f"get-artifact?path=notes.txt&run_uuid={exhibits.run_id}"
    encoding = "return (await fetch(arguments[0])).headers.get('content-encoding')"
    assert browser.run(encoding, path) is None


def test_a_reader_who_renames_a_run_is_told_why_not(
    browser: Chromium, proxy: Proxy, exhibits: Any, reader: Any
) -> None:
    sign_in(browser, proxy, reader.key)
    rename(browser, proxy, exhibits, "another-name")
    browser.see("needs the scope 'write'")
    browser.shot("mlflow-read-key-renames")
    browser.open(f"{proxy.url}/mlflow/#/experiments/{exhibits.experiment_id}/runs")
    browser.see(exhibits.run_name)


def test_a_writer_renames_a_run(
    browser: Chromium, proxy: Proxy, exhibits: Any, auth_service: Any
) -> None:
    sign_in(browser, proxy, auth_service.create_key(scopes=["write"]).key)
    rename(browser, proxy, exhibits, "another-name")
    browser.wait(
        lambda: "another-name" in browser.find("[data-testid=runs-header]").text, "the new name"
    )
    rename(browser, proxy, exhibits, exhibits.run_name)
    browser.wait(
        lambda: exhibits.run_name in browser.find("[data-testid=runs-header]").text, "the old name"
    )


def rename(browser: Chromium, proxy: Proxy, exhibits: Any, name: str) -> None:
    """As a person does: the menu, Rename, a new name, Save."""
    browser.open("about:blank")
    place = f"experiments/{exhibits.experiment_id}/runs/{exhibits.run_id}"
    browser.open(f"{proxy.url}/mlflow/#/{place}")
    browser.see(exhibits.run_id)
    browser.find("[data-testid=overflow-menu-trigger]").click()
    browser.find("[role=menuitem]", "Rename").click()
    field = browser.find("[role=dialog] input")
    field.send_keys("\ue009a\ue000" + name)  # Control-A, and over it
    browser.find("[role=dialog] button", "Save").click()


def test_the_first_load_moves_at_most_a_third_of_what_mlflow_alone_sends(
    browser: Chromium, proxy: Proxy, mlflow_server: Any, exhibits: Any, reader: Any
) -> None:
    alone = bytes_of(browser, lambda: browser.open(f"{mlflow_server.url}/"))
    browser.forget()
    browser.open(f"{proxy.url}/mlflow/-/sign-in")
    browser.find("#sign-in button")
    behind = bytes_of(browser, lambda: browser.type(f"{reader.key}\n"))
    print(f"first load: {alone} bytes alone, {behind} through the proxy")
    assert alone > 5_000_000
    assert behind * 3 <= alone
    again = bytes_of(browser, lambda: browser.open(f"{proxy.url}/mlflow/#/prompts"))
    assert again * 3 <= behind


def bytes_of(browser: Chromium, load: Callable[[], None]) -> int:
    """What came over the wire until MLflow's home stands there and nothing is under way. The script
    of a worker (3 KB) is left out: its end is told elsewhere."""
    list(browser.events())
    load()
    browser.see("Experiments", "Prompts")
    waiting, received = set[str](), [0]

    def is_quiet() -> bool:
        for method, parameters in browser.events():
            if method == "Network.requestWillBeSent":
                if not parameters["request"]["url"].endswith(".worker.js"):
                    waiting.add(parameters["requestId"])
            elif method in ("Network.loadingFinished", "Network.loadingFailed"):
                waiting.discard(parameters["requestId"])
                received[0] += int(parameters.get("encodedDataLength", 0))
        return not waiting

    browser.wait(is_quiet, "the end of all requests")
    return received[0]
