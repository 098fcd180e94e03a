"""The worker while it boots, and what it makes of exceptions; how it serves, tests/pipeline and
tests/faults look at."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from gunicorn.http import errors

from devstack.proxy import Proxy
from tests.upstreams import eventually
from tests.wire import Wire, call, request

#: The application, whose first import a SIGTERM interrupts.
INTERRUPTED = """
import os, signal
from pathlib import Path

told = Path(__file__).with_name("told")
if not told.exists():
    told.touch()
    os.kill(os.getpid(), signal.SIGTERM)
from wsgi import app
"""


def test_a_worker_that_is_told_to_stop_while_it_boots_does_not_end_the_instance(
    tmp_path: Path,
) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    settings = {"REDIS_URL": "memory://", "GRACEFUL_TIMEOUT": "2"}
    proxy = Proxy(tmp_path / "proxy", settings, ready="/health")
    proxy.command[-1:] = ["--pythonpath", str(tmp_path), "interrupted:app"]
    proxy.start()
    try:
        eventually(lambda: log(proxy).count("Booting worker") == 2, "the worker's successor")
        proxy.wait_until_ready()
        assert (tmp_path / "told").exists()
        assert "Worker failed to boot" not in log(proxy)
    finally:
        proxy.kill()


def log(proxy: Proxy) -> str:
    return proxy.log.read_text()


# --- whose fault an exception is -------------------------------------------------------------

#: An application that raises what the path names.
RAISING = """
import builtins
from gunicorn.http import errors
from wsgi import app as real

class Raising:
    extensions = real.extensions

    def __call__(self, environ, start_response):
        name = environ["PATH_INFO"][1:]
        if name == "health":
            return real(environ, start_response)
        kind = getattr(errors, name, None) or getattr(builtins, name)
        try:
            error = kind()
        except TypeError:
            error = kind("s3cret")
        raise error

app = Raising()
"""

#: All that gunicorn raises while it reads a request: a new one is tested as well.
PARSING = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, errors.ParseException)
]
OURS = ("ConfigurationProblem", "InvalidResponseHeader", "InvalidResponseHeaderName")


@pytest.fixture(scope="module")
def raising(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("raising")
    (folder / "raising.py").write_text(RAISING)
    settings = {"REDIS_URL": "memory://", "GRACEFUL_TIMEOUT": "2"}
    proxy = Proxy(folder / "proxy", settings, ready="/health")
    proxy.command[-1:] = ["--pythonpath", str(folder), "raising:app"]
    proxy.start()
    proxy.wait_until_ready()
    yield proxy
    proxy.kill()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("name", sorted({kind.__name__ for kind in PARSING} - {*OURS}))
def test_what_a_parser_raises_is_the_callers(raising: Proxy, name: str, method: str) -> None:
    with Wire(raising.url) as wire:
        answer = wire.send(request(method, f"/{name}")).read()
    status, code = answer.error
    assert 400 <= status < 500 or (status, name) == (501, "UnsupportedTransferCoding")
    assert code != "INTERNAL_ERROR"
    assert "s3cret" not in answer.body.decode() + log(raising)


@pytest.mark.parametrize("name", [*OURS, "ValueError", "UnicodeError", "KeyError", "SystemError"])
def test_all_else_is_a_defect_with_its_cause_in_the_log(raising: Proxy, name: str) -> None:
    answer = call(raising.url, "GET", f"/{name}")
    assert answer.error == (500, "INTERNAL_ERROR")
    (line,) = [
        line for line in raising.log_lines() if line.get("request_id") == answer.json["request_id"]
    ]
    assert line["level"] == "ERROR"
    assert line["message"] == f"defect: {name}"
    assert "Traceback" in str(line)
    assert "raising.py" in str(line)


def test_the_exceptions_are_all_there() -> None:
    assert len(PARSING) > 15
    assert {*OURS} <= {kind.__name__ for kind in PARSING}
