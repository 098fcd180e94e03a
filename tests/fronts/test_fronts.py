"""What stands in front of the proxy: the recommended configurations do all that docs/fronts.md
promises, and the table there is what each server does unasked."""

import time
from pathlib import Path

import pytest

from devstack.environments import ROOT
from tests.fronts.conftest import Stage, Stages
from tests.fronts.rows import ROWS, SLOW_ROW, seen, signed_in
from tests.fronts.servers import KINDS, MINIMAL, RECOMMENDED
from tests.upstreams import eventually
from tests.wire import call

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs/fronts.md"
GOOD = [name for name in KINDS if (RECOMMENDED / KINDS[name].files[0]).exists()]


@pytest.mark.parametrize("name", GOOD)
def test_the_recommended_configuration_does_it_all(stages: Stages, name: str) -> None:
    assert failing(stages.of(name, RECOMMENDED)) == {}


@pytest.mark.parametrize("name", KINDS)
def test_the_table_says_what_a_server_does_unasked(stages: Stages, name: str) -> None:
    wrong = failing(stages.of(name, MINIMAL))
    assert wrong.keys() == documented(name) - {SLOW_ROW}, wrong


@pytest.mark.parametrize("name", GOOD)
def test_a_person_can_sign_in_over_plain_http(stages: Stages, name: str) -> None:
    stage = stages.of(name, RECOMMENDED)
    assert signed_in(stage).status == 303
    assert signed_in(stage, "Origin: http://elsewhere.test").status == 403


@pytest.mark.parametrize("name", KINDS)
def test_the_table_says_who_cuts_answers_that_take_long(stages: Stages, name: str) -> None:
    """The last one: what it looks at has been under way since the first."""
    assert stages.passes_slow_answers(name, MINIMAL) == (SLOW_ROW not in documented(name))
    if name in GOOD:
        assert stages.passes_slow_answers(name, RECOMMENDED)


#: The line of each configuration that ends idle connections to the proxy, and a shorter time.
IDLE = {
    "nginx": ("keepalive_timeout 60s", "keepalive_timeout 1s"),
    "Apache": ("ttl=60", "ttl=1"),
    "HAProxy": ("pool-purge-delay 30s", "pool-purge-delay 1s"),
    "Caddy": ("keepalive 60s", "keepalive 1s"),
    "Traefik": ("idleConnTimeout: 60s", "idleConnTimeout: 1s"),
    "Envoy": ("idle_timeout: 60s", "idle_timeout: 1s"),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_idle_connection_to_the_proxy_is_ended_in_front(
    stages: Stages, tmp_path: Path, name: str
) -> None:
    """Before the proxy does (KEEPALIVE), or requests meet a connection that is just being closed.
    By the line that the configuration has for it, with one second instead of a minute."""
    for file in KINDS[name].files:
        text = (RECOMMENDED / file).read_text("utf-8").replace(*IDLE[name])
        (tmp_path / file).write_text(text, "utf-8")
    stage = stages.of(name, tmp_path)
    assert call(stage.beside.url, "GET", "/first").status == 200
    first = stage.bare.requests[-1].connection

    def used_no_more() -> bool:
        """Apache looks at the age of a connection when it wants to use it."""
        if name != "Apache":
            return stage.bare.open_connections == 0
        time.sleep(1.5)
        call(stage.beside.url, "GET", "/next")
        return stage.bare.requests[-1].connection != first

    eventually(used_no_more, "the end of the idle connection")


#: What each needs behind another hop, beside no line with X-Forwarded-Proto.
BEHIND_A_HOP = {
    "Caddy": ("servers {", "servers {\n\t\ttrusted_proxies static private_ranges"),
    "Traefik": ("    http:\n", "    forwardedHeaders: {trustedIPs: [127.0.0.1/32]}\n    http:\n"),
    "Envoy": (
        "use_remote_address: ",
        "xff_num_trusted_hops: 1\n                use_remote_address: ",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_behind_another_hop_it_passes_on_what_that_says(
    stages: Stages, tmp_path: Path, name: str
) -> None:
    for file in KINDS[name].files:
        lines = (RECOMMENDED / file).read_text("utf-8").splitlines(keepends=True)
        text = "".join(line for line in lines if "X-Forwarded-Proto" not in line)
        old, new = BEHIND_A_HOP.get(name, ("", ""))
        (tmp_path / file).write_text(text.replace(old, new, 1), "utf-8")
    stage = stages.of(name, tmp_path)
    found = seen(stage, "X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https")
    assert (str(found["forwarded_for"]), found["scheme"]) == ("2", "https")


def failing(stage: Stage) -> dict[str, str]:
    """The rows that the server fails, and how."""
    found = {}
    for name, check in ROWS.items():
        stage.fake.forget()
        stage.bare.forget()
        try:
            check(stage)
        except (AssertionError, OSError, EOFError, IndexError, ValueError) as error:
            found[name] = f"{type(error).__name__} {str(error)[:200]}"
    return found


def documented(name: str) -> set[str]:
    """The rows that have a ✗ in the server's column."""
    return {cells[0] for cells in table() if cells[column(name)] == "✗"}


def table() -> list[list[str]]:
    """The rows of the first table of the page, as cells."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] in (*ROWS, SLOW_ROW)]


def column(name: str) -> int:
    """Where a server's column is."""
    header = next(line for line in PAGE.read_text("utf-8").splitlines() if "| nginx 1" in line)
    names = [cell.split()[0] if cell.strip() else "" for cell in header.strip("|").split("|")]
    return names.index(name)
