"""gunicorn.conf.py, as gunicorn itself reads it."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GUNICORN = Path(sys.executable).with_name("gunicorn")


def gunicorn(
    option: str, folder: Path, files: tuple[int, int] | None = None, **environ: str
) -> "subprocess.CompletedProcess[str]":
    """`files` are the soft and the hard limit of open files."""

    def limit() -> None:
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, files)

    own = {"PATH": os.environ["PATH"], "PYTHONWARNINGS": "error", "INSTANCE_FOLDER": str(folder)}
    return subprocess.run(
        [GUNICORN, option, "-c", "gunicorn.conf.py", "wsgi:app"],
        cwd=ROOT,
        env=own | environ,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
    )


def values(folder: Path, **environ: str) -> dict[str, str]:
    """The configuration as gunicorn prints it, the application loaded."""
    finished = gunicorn("--print-config", folder, None, **environ)
    assert (finished.returncode, finished.stderr) == (0, "")
    return dict(re.findall(r"^(\w+) += (.*)$", finished.stdout, re.MULTILINE))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What gunicorn gets where no variable is set."""
    return values(tmp_path_factory.mktemp("instance"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bind", "['0.0.0.0:8000']"),
        ("workers", "2"),
        ("worker_class", "<ProxyWorker()>"),
        ("worker_connections", "2000"),
        ("graceful_timeout", "90"),
        ("timeout", "60"),
        ("max_requests", "0"),
        ("max_requests_jitter", "0"),
        ("limit_request_fields", "500"),
        ("http_parser", "python"),
        ("http_protocols", "['h1']"),
        ("forwarder_headers", "[]"),
        ("secure_scheme_headers", "{}"),
        ("header_map", "drop"),
        ("proxy_protocol", "off"),
        ("permit_obsolete_folding", "False"),
        ("permit_unconventional_http_method", "False"),
        ("permit_unconventional_http_version", "False"),
        ("strip_header_spaces", "False"),
        ("control_socket_disable", "True"),
        ("accesslog", "None"),
        ("reload", "False"),
        ("preload_app", "False"),
        ("raw_env", "[]"),
    ],
)
def test_the_value_of(stock: dict[str, str], name: str, value: str) -> None:
    assert stock[name] == value


def test_keep_alive_outlasts_the_load_balancers(stock: dict[str, str]) -> None:
    """An ALB that sends into a connection which is just being closed answers 502."""
    assert int(stock["keepalive"]) > 60


def test_the_log_is_ours(stock: dict[str, str]) -> None:
    assert "app.server.logs.JsonFormatter" in stock["logconfig_dict"]


def test_settings_reach_gunicorn(tmp_path: Path) -> None:
    chosen = values(
        tmp_path,
        BIND="127.0.0.1:8123",
        WEB_CONCURRENCY="3",
        KEEPALIVE="99",
        GRACEFUL_TIMEOUT="7",
        MAX_CONNECTIONS="50",
        LOG_FORMAT="text",
    )
    assert chosen["bind"] == "['127.0.0.1:8123']"
    assert chosen["workers"] == "3"
    assert chosen["keepalive"] == "99"
    assert chosen["graceful_timeout"] == "7"
    assert chosen["worker_connections"] == "50"
    assert "app.server.logs.TextFormatter" in chosen["logconfig_dict"]


def test_bad_settings_stop_the_start_with_every_complaint_and_nothing_else(tmp_path: Path) -> None:
    wrong = {
        "BIND": "nowhere",
        "WEB_CONCURRENCY": "0",
        "REDIS_URL": "http://:s3cret@redis",
        "MLFLOW_UPSTREAM_USERNAME": "ann",
    }
    finished = gunicorn("--check-config", tmp_path / "unused", None, **wrong)
    assert finished.returncode != 0
    assert finished.stdout == ""
    headline, *complaints = finished.stderr.splitlines()
    assert headline == "the proxy cannot start: 4 invalid setting(s):"
    assert [complaint.split()[1] for complaint in complaints] == list(wrong)
    assert "s3cret" not in finished.stderr
    assert not (tmp_path / "unused").exists()


def test_the_usual_limit_of_open_files_is_raised(tmp_path: Path) -> None:
    """Else a worker could not accept long before MAX_CONNECTIONS are reached."""
    finished = gunicorn("--print-config", tmp_path, (256, 5000), MAX_CONNECTIONS="2000")
    assert re.search(r"worker_connections += 2000\n", finished.stdout)
    assert finished.stderr == ""


def test_a_low_hard_limit_of_open_files_means_fewer_connections(tmp_path: Path) -> None:
    finished = gunicorn("--print-config", tmp_path, (256, 512), MAX_CONNECTIONS="2000")
    assert re.search(r"worker_connections += 206\n", finished.stdout)
    assert "ulimit -n" in finished.stderr
    assert "raise it to 4100" in finished.stderr
