"""The log: one JSON object a line, for human eyes on demand, libraries kept quiet."""

import json
import logging
import os
import re
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app.server.log_outlet import Outlet, opened_anew
from app.server.logs import JsonFormatter, TextFormatter

ROOT = Path(__file__).parents[3]

#: A program that logs at every level, under our names and those of libraries.
SPEAKERS = (
    "hokusai.proxy",
    "hokusai.access",
    "hokusai.audit",
    "gunicorn.error",
    "urllib3.connectionpool",
    "requests",
    "redis",
    "flask-limiter",
    "werkzeug",
    "gevent",
    "somebody.else",
)
PROGRAM = f"""
import logging.config, os
from config import load
from app.server.logs import dict_config
logging.config.dictConfig(dict_config(load(os.environ)))
for name in {SPEAKERS!r}:
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(name), level)("spoke")
"""


def record(message: str = "said %s", *arguments: Any, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("hokusai.test", logging.INFO, "file.py", 1, message, arguments, None)
    made.created = 1_700_000_000.25
    vars(made).update(more)
    return made


def spoken(**environ: str) -> str:
    """What the program wrote to stderr."""
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout == ""
    return finished.stderr


def heard(**environ: str) -> dict[str, list[str]]:
    """Which levels of each speaker came through."""
    lines = [json.loads(line) for line in spoken(**environ).splitlines()]
    assert all(line["message"] == "spoke" for line in lines)
    return {name: [line["level"] for line in lines if line["logger"] == name] for name in SPEAKERS}


# --- one record ----------------------------------------------------------------------------------


def test_a_record_is_one_json_object() -> None:
    assert json.loads(JsonFormatter().format(record("said %s", "yes"))) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "INFO",
        "logger": "hokusai.test",
        "message": "said yes",
    }


def test_fields_are_merged_in() -> None:
    fields = {"request_id": "r-1", "status": 200, "duration_ms": 1.5, "path": Path("/a")}
    line = json.loads(JsonFormatter().format(record("request", fields=fields)))
    assert {name: line[name] for name in fields} == fields | {"path": "/a"}


@pytest.mark.parametrize(
    "text", ["two\nlines", 'a "quote"', "nul\0", "gr\xfc\xdfe", "北", "\u2028"]
)
def test_whatever_is_said_stays_on_one_line(text: str) -> None:
    line = JsonFormatter().format(record(text, fields={"path": text}))
    assert "\n" not in line
    assert json.loads(line)["message"] == json.loads(line)["path"] == text


@pytest.mark.parametrize("text", ["half \ud800", b"bytes", {1: 2}, 2**70, object()])
def test_what_json_has_no_word_for_is_written_all_the_same(text: Any) -> None:
    """A log line that fails would take the record of the request with it."""
    line = JsonFormatter().format(record("request", fields={"path": text}))
    assert json.loads(line)["message"] == "request"
    assert "path" in json.loads(line)


def test_an_exception_is_told_with_its_traceback() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        failed = record("defect", exc_info=sys.exc_info())
    line = JsonFormatter().format(failed)
    assert "\n" not in line
    assert re.match(r"Traceback .*\n.*\n.*\nValueError: why$", json.loads(line)["exception"])


def test_text_is_for_human_eyes() -> None:
    line = TextFormatter().format(record("request", fields={"status": 200, "user_id": "ann"}))
    assert re.fullmatch(
        r"[-0-9]{10} [:,0-9]+ INFO    hokusai\.test request status=200 user_id=ann", line
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ann", "ann"),
        ("/api/2.0/a%20b?", "/api/2.0/a%20b?"),
        ("naïve", "naïve"),
        (0.5, "0.5"),
        ({}, "{}"),
        ("two words", '"two words"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        ('a"b', r'"a\"b"'),
        ("forged\n2026 INFO hokusai.audit write", r'"forged\n2026 INFO hokusai.audit write"'),
        ("\x1b[31m", r'"\u001b[31m"'),
        ("\u2028", r'"\u2028"'),
        (["a", "b"], "\"['a', 'b']\""),
    ],
)
def test_a_value_in_text_looks_neither_like_two_nor_like_a_line(value: Any, shown: str) -> None:
    line = TextFormatter().format(record("request", fields={"field": value, "last": 1}))
    assert line.endswith(f" request field={shown} last=1")


def test_the_milliseconds_of_each_record_are_its_own() -> None:
    made = [record(), record(), record()]
    for each, created in zip(
        made, (1_700_000_000.25, 1_700_000_000.999, 1_700_000_001.0), strict=True
    ):
        each.created = created
    times = [json.loads(JsonFormatter().format(each))["time"] for each in made]
    assert [time[-7:] for time in times] == ["20.250Z", "20.999Z", "21.000Z"]


# --- who is heard --------------------------------------------------------------------------------


def test_by_default_we_speak_from_info_and_libraries_from_warning() -> None:
    loud, quiet = ["INFO", "WARNING", "ERROR"], ["WARNING", "ERROR"]
    assert heard() == dict.fromkeys(SPEAKERS, quiet) | {
        "hokusai.proxy": loud,
        "hokusai.access": loud,
        "hokusai.audit": loud,
        "gunicorn.error": loud,
        "urllib3.connectionpool": ["ERROR"],
    }


def test_debugging_is_ours_alone() -> None:
    levels = heard(MLFLOW_PROXY_DEBUG="1")
    assert levels["hokusai.proxy"] == ["DEBUG", "INFO", "WARNING", "ERROR"]
    talkative = [name for name, told in levels.items() if "DEBUG" in told]
    assert talkative == ["hokusai.proxy"]


def test_the_line_of_a_request_is_written_at_any_level() -> None:
    levels = heard(LOG_LEVEL="ERROR")
    assert levels["hokusai.proxy"] == ["ERROR"]
    assert levels["hokusai.access"] == levels["hokusai.audit"] == ["INFO", "WARNING", "ERROR"]


def test_the_audit_can_be_silent() -> None:
    assert heard(AUDIT_LOG="off") == heard() | {"hokusai.audit": []}


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_audit_can_have_a_file_in_the_format_of_the_log(tmp_path: Path, form: str) -> None:
    file = tmp_path / "audit.log"
    said = spoken(AUDIT_LOG=str(file), LOG_FORMAT=form)
    assert "hokusai.access" in said
    assert "hokusai.audit" not in said
    lines = file.read_text().splitlines()
    assert len(lines) == 3
    assert all(
        "hokusai.audit" in line and line.startswith("{") == (form == "json") for line in lines
    )


def test_text_can_be_chosen() -> None:
    lines = spoken(LOG_FORMAT="text").splitlines()
    assert any(re.fullmatch(r".{23} WARNING redis spoke", line) for line in lines)


#: A program that logs 2,000 lines, tells so, waits for a word, and logs one more.
TALKER = """
import logging.config, os
from config import load
from app.server.logs import dict_config
logging.config.dictConfig(dict_config(load({})))
log = logging.getLogger("hokusai.proxy")
for number in range(2000):
    log.info("x" * int(os.environ["SIZE"]))
print("done", flush=True)
input()
log.info("goes on")
"""


@pytest.mark.parametrize("size", [100, 9000])
def test_a_reader_of_the_log_that_stops_keeps_nobody_waiting(size: int) -> None:
    """As Docker's log drivers do while their service is away. What was lost is counted."""
    talker = subprocess.Popen(
        [sys.executable, "-c", TALKER],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "SIZE": str(size)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert talker.stdout is not None
    assert talker.stdout.readline() == "done\n"
    assert talker.stderr is not None
    heard = os.read(talker.stderr.fileno(), 1024 * 1024).decode()
    heard += talker.communicate("\n", timeout=20)[1]
    lines = [json.loads(line) for line in heard.splitlines() if line.endswith("}")]
    *kept, counted, last = [line["message"] for line in lines]
    assert last == "goes on"
    lost = re.fullmatch(r"([0-9]+) log lines were lost: .*", counted)
    assert lost
    assert len(kept) + int(lost[1]) == 2000
    assert set(kept) == {"x" * size}


def test_a_slow_reader_of_the_log_makes_nobody_as_slow() -> None:
    """As a log driver that is throttled: to wait for each line would take ten seconds."""
    theirs, ours = os.pipe()

    def read_slowly() -> None:
        while os.read(theirs, 4096):
            time.sleep(0.05)

    threading.Thread(target=read_slowly, daemon=True).start()
    outlet = Outlet(opened_anew(ours))
    os.close(ours)
    began = time.monotonic()
    for _ in range(200):
        with suppress(BlockingIOError):
            outlet.write("x" * 3999 + "\n")
    seconds = time.monotonic() - began
    outlet.close()
    assert seconds < 3


#: A program that writes 2,000 audit lines.
AUDITOR = """
import logging.config, os
from config import load
from app.server.logs import dict_config
logging.config.dictConfig(dict_config(load(os.environ)))
for number in range(2000):
    logging.getLogger("hokusai.audit").info("write %d", number)
"""


def test_a_terminal_that_somebody_holds_keeps_nobody_waiting() -> None:
    """As with `docker run -t`, or Ctrl-S in a terminal."""
    ours, theirs = os.openpty()
    talker = subprocess.Popen(
        [sys.executable, "-c", TALKER],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "SIZE": "100"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    assert talker.stdout is not None
    assert talker.stdout.readline() == "done\n"
    assert os.get_blocking(theirs), "the terminal is others', too"
    os.close(theirs)
    heard = _so_far(ours)
    talker.communicate("\n", timeout=20)
    heard += _so_far(ours)
    os.close(ours)
    assert re.search(r"[0-9]+ log lines were lost: .*\r\n.*goes on", heard)


def _so_far(terminal: int) -> str:
    """What was written to a terminal and not read yet."""
    heard = b""
    with suppress(OSError):  # its end
        while select.select([terminal], [], [], 0.3)[0]:
            heard += os.read(terminal, 64 * 1024)
    return heard.decode()


@pytest.mark.parametrize("has_reader", [True, False])
def test_an_audit_that_nobody_reads_goes_to_stderr(tmp_path: Path, has_reader: bool) -> None:
    pipe = tmp_path / "audit"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if has_reader else None
    told = subprocess.run(
        [sys.executable, "-c", AUDITOR],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "AUDIT_LOG": str(pipe)},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    heard = ""
    if reader is not None:
        heard = os.read(reader, 1024 * 1024).decode()
        os.close(reader)
    assert "cannot write the audit file; its lines go to stderr" in told.stderr
    for number in range(2000):
        assert f'"write {number}"' in heard + told.stderr
    assert bool(heard) == has_reader
