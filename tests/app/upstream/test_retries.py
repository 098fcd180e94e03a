"""Retries: bounded in number, in time, and by a budget; none of them after an idle wait."""

import threading
import time

import pytest

from app.upstream.retries import BUDGET, BUDGET_PER_REQUEST, FIRST, TRIES, Retries


def granted(retries: Retries, times: int) -> int:
    """How many of so many retries are granted, each a moment before the deadline of a minute."""
    return sum(retries.again(1, time.monotonic() - 59.99, was_sent=False) for _ in range(times))


@pytest.mark.parametrize(
    ("tries", "was_sent", "again"),
    [
        (1, True, True),
        (TRIES - 1, True, True),
        (TRIES, True, False),
        (TRIES + 5, True, False),
        (TRIES, False, True),
    ],
)
def test_what_went_out_goes_out_so_often_and_no_more(
    tries: int, was_sent: bool, again: bool
) -> None:
    assert Retries(deadline=5.0).again(tries, time.monotonic(), was_sent) is again


def test_a_deadline_of_nothing_switches_retries_off() -> None:
    assert not Retries(deadline=0.0).again(1, time.monotonic(), was_sent=False)


def test_after_the_deadline_nothing_is_tried_again() -> None:
    assert not Retries(deadline=5.0).again(1, time.monotonic() - 5.1, was_sent=False)


def test_the_wait_ends_at_the_deadline() -> None:
    began = time.monotonic()
    assert Retries(deadline=0.1).again(20, began, was_sent=False)
    assert time.monotonic() - began < 1


def test_the_waits_differ_and_grow() -> None:
    """Jitter: whoever failed at the same moment comes back at different ones."""
    retries, waits = Retries(deadline=60.0), []
    for tries in (1, 1, 1, 1, 3, 3, 3, 3):
        began = time.monotonic()
        assert retries.again(tries, began, was_sent=False)
        waits.append(time.monotonic() - began)
    assert max(waits[:4]) < FIRST + 0.1
    assert max(waits[4:]) < 4 * FIRST + 0.1
    assert len({round(wait, 4) for wait in waits}) > 2


def test_in_an_outage_the_budget_runs_out() -> None:
    retries = Retries(deadline=60.0)
    assert granted(retries, int(BUDGET) + 5) == BUDGET


def test_requests_earn_retries_up_to_the_budget() -> None:
    retries = Retries(deadline=60.0)
    granted(retries, int(BUDGET))
    for _ in range(round(2 / BUDGET_PER_REQUEST) + 1):
        retries.request_made()
    assert granted(retries, 5) == 2
    for _ in range(round(5 * BUDGET / BUDGET_PER_REQUEST)):
        retries.request_made()
    assert granted(retries, int(BUDGET) + 5) == BUDGET


def test_threads_share_one_budget() -> None:
    retries, counts = Retries(deadline=60.0), []
    threads = [
        threading.Thread(target=lambda: counts.append(granted(retries, 5))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == BUDGET
