"""An action that is repeated in a thread of its own."""

import logging
import threading

import pytest

from app.observability.periodic import Periodic


def test_it_acts_at_once_and_again() -> None:
    times = threading.Semaphore(0)
    loop = Periodic(name="t", interval=0.01, action=lambda: times.release())
    loop.start()
    assert all(times.acquire(timeout=10) for _ in range(3))
    loop.stop()


def test_it_can_wait_for_the_first_interval() -> None:
    acted = threading.Event()
    loop = Periodic(name="t", interval=60, action=acted.set, at_once=False)
    loop.start()
    assert not acted.wait(0.2)
    loop.stop()


def test_nothing_begins_after_its_stop() -> None:
    acted = threading.Event()
    loop = Periodic(name="t", interval=0.01, action=acted.set)
    loop.stop()
    loop.start()
    assert not acted.wait(0.1)


@pytest.mark.parametrize("level", [logging.ERROR, logging.DEBUG])
def test_a_failure_is_logged_and_does_not_end_it(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="hokusai.periodic")
    times = threading.Semaphore(0)

    def fail() -> None:
        times.release()
        raise OSError("the disk is full")

    loop = Periodic(name=f"loop-{level}", interval=0.01, action=fail, level=level)
    loop.start()
    assert all(times.acquire(timeout=10) for _ in range(3))
    loop.stop()
    records = [record for record in caplog.records if f"loop-{level} failed" in record.message]
    assert {record.levelno for record in records} == {level}
    assert "the disk is full" in caplog.text
