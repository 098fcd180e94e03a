"""What the workers of a test run have to do with each other."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from xdist.remote import Producer

from tests.parallel import Room, TimedApart, list_timed_tests, slow_files_first
from tests.upstreams import WAIT_LIMIT


def item(file: str, name: str, *marks: str) -> Any:
    """What the order looks at."""
    return SimpleNamespace(
        path=Path(file),
        name=name,
        nodeid=f"{file}::{name}",
        fixturenames=marks,
        get_closest_marker=lambda mark: mark if mark in marks else None,
    )


def test_slow_files_come_first_timed_tests_last_and_each_file_stays_together() -> None:
    items = [
        item("quick", "a"),
        item("slow", "b"),
        item("slow", "c", "slow"),
        item("timed", "d", "alone"),
        item("timed", "e", "timing"),
        item("timed", "h"),
        item("slowest", "f", "slow"),
        item("slowest", "g", "slow"),
    ]
    slow_files_first(items)
    assert "".join(each.name for each in items) == "fgbcahde"


def test_each_timed_test_is_handed_out_by_itself_and_other_files_as_a_whole(
    pytestconfig: pytest.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytestconfig.option, "tx", ["popen"])  # as -n sets it
    items = [item("timed", "a", "timing"), item("timed", "b", "alone"), item("timed", "c")]
    items += [item(f"tests/tenants/{file}", "d") for file in ("test_sdk.py", "test_fence.py")]
    list_timed_tests(items, tmp_path)
    scheduler = TimedApart(pytestconfig, Producer("log"), tmp_path)
    scopes = [scheduler._split_scope(each.nodeid) for each in items]
    assert scopes == ["timed::a", "timed::b", "timed", "tests/tenants/", "tests/tenants/"]


@pytest.fixture
def enter(tmp_path: Path) -> Iterator[Any]:
    """Go into the room as another worker would, through files of its own."""
    with ExitStack() as ends:

        def enter(alone: bool) -> Any:
            room = Room(tmp_path)
            ends.callback(room.close)
            return room.entered(alone)

        yield enter


def test_several_are_in_the_room_at_the_same_time(enter: Any) -> None:
    everybody = threading.Barrier(3)

    def stay(_: int) -> None:
        with enter(alone=False):
            everybody.wait(WAIT_LIMIT)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(stay, range(3)))


def test_one_inside_may_be_alone_for_a_while(tmp_path: Path, enter: Any) -> None:
    room = Room(tmp_path)
    happened: list[str] = []

    def come_later() -> None:
        with enter(alone=True):
            happened.append("later")

    with ThreadPoolExecutor(1) as threads:
        with room.entered(alone=False), room.alone():
            later = threads.submit(come_later)
            time.sleep(0.2)
            happened.append("alone")
        later.result(WAIT_LIMIT)
    room.close()
    assert happened == ["alone", "later"]


def test_who_is_alone_waits_for_the_others_and_keeps_new_ones_out(enter: Any) -> None:
    happened: list[str] = []

    def be_alone() -> None:
        with enter(alone=True):
            happened.append("alone")
            time.sleep(0.1)
            happened.append("alone no more")

    def come_later() -> None:
        with enter(alone=False):
            happened.append("later")

    with ThreadPoolExecutor(2) as threads:
        with enter(alone=False):
            first = threads.submit(be_alone)
            time.sleep(0.2)
            second = threads.submit(come_later)
            time.sleep(0.2)
            happened.append("left")
        first.result(WAIT_LIMIT)
        second.result(WAIT_LIMIT)
    assert happened == ["left", "alone", "alone no more", "later"]
