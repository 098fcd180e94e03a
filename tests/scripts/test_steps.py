"""Steps: what is skipped after a failure, what always runs, and what is printed."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.doctor.model import compare
from app.doctor.steps import Failed, Skipped, Steps, interruptible, uses_colour

ROOT = Path(__file__).parents[2]


def make(**more: Any) -> tuple[Steps, io.StringIO]:
    out = io.StringIO()
    return Steps(
        "title", {}, redact=lambda text: text.replace("SECRET", "[key]"), out=out, **more
    ), out


def fails() -> str:
    raise Failed("It broke.", "Mend it.", "id-1")


def is_interrupted() -> str:
    raise KeyboardInterrupt


def does_not_apply() -> str:
    raise Skipped("not here")


def test_a_failure_shows_message_remedy_and_id_and_blocks_what_needs_it() -> None:
    steps, out = make()
    steps.run("first", fails)
    steps.run("second", lambda: "fine", needs="first")
    steps.run("third", lambda: "fine", needs="second")
    steps.run("other", lambda: "fine")
    assert steps.finish() == 1
    assert [result.status for result in steps.results] == ["failed", "skipped", "skipped", "passed"]
    for text in ("It broke.", "→ Mend it.", "request id: id-1", "needs: first"):
        assert text in out.getvalue()


def test_a_step_that_does_not_apply_blocks_nothing() -> None:
    steps, _ = make()
    steps.run("first", does_not_apply)
    assert steps.run("second", lambda: None, needs="first")
    assert steps.finish() == 0


def test_after_an_interruption_only_cleaning_up_runs() -> None:
    steps, _ = make()
    steps.run("first", is_interrupted)
    assert not steps.run("second", lambda: None)
    assert steps.run("clean up", lambda: None, always=True)
    assert steps.finish() == 1


def test_an_interruption_between_two_steps_counts() -> None:
    steps, _ = make()
    steps.run("first", lambda: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with interruptible(steps):
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("it goes on")
        signal.raise_signal(signal.SIGTERM)  # while cleaning up the first one is only noted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert steps.finish() == 1


def test_no_text_shows_the_key() -> None:
    steps, out = make()
    steps.run("first", lambda: "SECRET")
    assert "[key]" in out.getvalue()
    assert "SECRET" not in out.getvalue()


def test_a_reader_that_leaves_does_not_end_the_run() -> None:
    program = """
import sys
from app.doctor.steps import Steps
steps = Steps("title", {}, redact=str)
for name in ("first", "clean up"):
    steps.run(name, lambda: print(name, file=sys.stderr))
sys.exit(steps.finish())
"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(writer)
    assert (done.returncode, done.stderr.split()) == (0, [b"first", b"clean", b"up"])


def test_colour_is_for_terminals_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert uses_colour(Terminal(), {})
    assert not uses_colour(Terminal(), {"NO_COLOR": "1"})
    assert not uses_colour(Terminal(), {"TERM": "dumb"})
    assert not uses_colour(io.StringIO(), {})


def test_a_transfer_that_was_cut_is_noticed() -> None:
    compare("same", b"abc", b"abc")
    with pytest.raises(Failed, match="2 bytes instead of 3"):
        compare("cut", b"abc", b"ab")
