"""Every setting: documented, parsed, refused with a complaint that repeats no value."""

import re
import subprocess
import sys
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest

from config import BadSettings, Settings, load
from config.__main__ import reference

ROOT = Path(__file__).parents[2]
ROWS = {row.metadata["variable"]: row for row in fields(Settings)}
SECRETS = sorted(variable for variable, row in ROWS.items() if row.metadata["secret"])

#: What the outward contract promises, with the defaults that it names.
CONTRACT = {
    "MLFLOW_SERVER_URL": "http://127.0.0.1:5000",
    "HOKUSAI_AUTH_SERVICE_URL": "http://127.0.0.1:8001",
    "HOKUSAI_AUTH_SERVICE_ID": "platform",
    "REDIS_URL": "redis://127.0.0.1:6379/0",
    "BIND": "0.0.0.0:8000",
    "WEB_CONCURRENCY": 2,
    "AUTH_CACHE_TTL": 60,
    "AUTH_NEGATIVE_TTL": 10,
    "AUTH_STALE_TTL": 600,
    "MLFLOW_UPSTREAM_TOKEN": "",
    "MLFLOW_UPSTREAM_USERNAME": "",
    "MLFLOW_UPSTREAM_PASSWORD": "",
    "MLFLOW_CONNECT_TIMEOUT": 2,
    "MLFLOW_READ_TIMEOUT": 40,
    "MLFLOW_ARTIFACT_READ_TIMEOUT": 120,
    "AUTH_FAILURE_LIMIT": 30,
    "MAX_IN_FLIGHT_PER_KEY": 64,
    "CIRCUIT_FAIL_MAX": 5,
    "CIRCUIT_RESET_TIMEOUT": 30,
    "TRUSTED_PROXY_HOPS": 0,
    "MLFLOW_PROXY_DEBUG": False,
    "LOG_LEVEL": "INFO",
}


def complaints_about(**environ: str) -> list[str]:
    with pytest.raises(BadSettings) as caught:
        load(environ)
    return caught.value.complaints


# --- the rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_every_setting_has_a_variable_a_help_and_a_usable_default(row: "Field[Any]") -> None:
    facts = row.metadata
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+", facts["variable"])
    assert re.fullmatch(r"\S.+\.", facts["help"]), "one or two sentences"
    assert facts["group"]
    if row.default != "":
        given = str(row.default).lower() if isinstance(row.default, bool) else f"{row.default}"
        assert facts["parse"](given) == row.default, "the default would be refused"


def test_no_two_settings_read_the_same_variable() -> None:
    assert len(ROWS) == len(fields(Settings))


@pytest.mark.parametrize(("variable", "default"), CONTRACT.items(), ids=CONTRACT.keys())
def test_the_contracts_variables_have_the_contracts_defaults(variable: str, default: Any) -> None:
    assert getattr(load({}), ROWS[variable].name) == default


def test_an_empty_environment_is_enough() -> None:
    assert load({}) == Settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load({}).bind = "elsewhere:1"  # type: ignore[misc]


def test_a_result_is_of_use_for_its_life_and_for_as_long_as_it_may_be_stale() -> None:
    assert load({"AUTH_CACHE_TTL": "5", "AUTH_STALE_TTL": "7"}).max_stored_decision_age == 12


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "given", "value"),
    [
        ("BIND", "127.0.0.1:0", "127.0.0.1:0"),
        ("BIND", "[::]:8000", "[::]:8000"),
        ("BIND", "unix:/run/proxy.sock", "unix:/run/proxy.sock"),
        ("WEB_CONCURRENCY", "1", 1),
        ("WEB_CONCURRENCY", "256", 256),
        ("WEB_CONCURRENCY", " 3 ", 3),
        ("WEB_CONCURRENCY", "", 2),
        ("WEB_CONCURRENCY", "  ", 2),
        ("AUTH_STALE_TTL", "0", 0.0),
        ("AUTH_STALE_TTL", "0.5", 0.5),
        ("MLFLOW_SERVER_URL", "http://mlflow.internal:5000", "http://mlflow.internal:5000"),
        ("MLFLOW_SERVER_URL", "https://[::1]:5000/base/", "https://[::1]:5000/base"),
        ("MLFLOW_SERVER_URL", "http://mlflow", "http://mlflow"),
        ("REDIS_URL", "rediss://:s3cret@redis:6379/1", "rediss://:s3cret@redis:6379/1"),
        ("REDIS_URL", "unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("REDIS_URL", "redis+sentinel://a:1,b:2/mine", "redis+sentinel://a:1,b:2/mine"),
        ("REDIS_URL", "redis+cluster://u:p@a:1,b:2", "redis+cluster://u:p@a:1,b:2"),
        ("REDIS_URL", "rediss+sentinel://a,b/mine", "rediss+sentinel://a,b/mine"),
        ("REDIS_URL", "rediss+cluster://[::1]:1", "rediss+cluster://[::1]:1"),
        ("REDIS_URL", "memory://", "memory://"),
        ("METRICS_EMF", "true", True),
        ("METRICS_EMF_NAMESPACE", "Hokusai/Test", "Hokusai/Test"),
        ("MLFLOW_PROXY_DEBUG", "1", True),
        ("MLFLOW_PROXY_DEBUG", "Yes", True),
        ("MLFLOW_PROXY_DEBUG", "off", False),
        ("LOG_LEVEL", "warning", "WARNING"),
        ("LOG_FORMAT", "Text", "text"),
        ("AUDIT_LOG", "STDERR", "stderr"),
        ("AUDIT_LOG", "Off", "off"),
        ("AUDIT_LOG", "/dev/null", "/dev/null"),
        ("OTEL_ENABLED", "true", True),
        ("HOKUSAI_AUTH_SERVICE_ID", "platform two", "platform two"),
    ],
)
def test_a_good_value_is_taken(variable: str, given: str, value: Any) -> None:
    assert getattr(load({variable: given}), ROWS[variable].name) == value


#: What each parser must refuse.
BAD_TEXT = ["a\nb", "tab\there", "clé", "nul\0"]
BAD_COUNTS = ["-1", "1.5", "1e3", "0x10", "1_0", "٣", "many", "9999999999999", "+5"]
BAD_SECONDS = ["-1", "1e3", "nan", "inf", "1,5", ".5", "5.", "5s", "٣", "86401"]
BAD_URLS = [
    "mlflow.internal:5000",
    "ftp://mlflow",
    "http://",
    "http://:5000",
    "http://mlflow:0",
    "http://mlflow:65536",
    "http://mlflow:port",
    "http://[::1",
    "http://user:s3cret@mlflow",
    "http://user@mlflow",
    "http://@mlflow",
    "http://mlflow/?a=b",
    "http://mlflow/#there",
    "http://ml flow",
    "http://ml%20flow",
    "http://[fe80::1%eth0]:5000",
    "http://mlflow\n.evil",
    "http://mlfl\u00f6w",
]
BAD = {
    "BIND": ["8000", "0.0.0.0", "host:", "host:http", "host:65536", "host:٣", "unix:"],
    "WEB_CONCURRENCY": [*BAD_COUNTS, "0", "257"],
    "TRUSTED_PROXY_HOPS": [*BAD_COUNTS, "17"],
    "CLIENT_IDLE_TIMEOUT": [*BAD_SECONDS, "0.9", "3601"],
    "CLIENT_REQUEST_TIMEOUT": [*BAD_SECONDS, "0.9", "3601"],
    "KEEPALIVE": [*BAD_COUNTS, "0", "4001"],
    "DRAIN_DELAY": [*BAD_SECONDS, "100.1"],
    "GRACEFUL_TIMEOUT": [*BAD_COUNTS, "0", "3601"],
    "MAX_CONNECTIONS": [*BAD_COUNTS, "9", "100001"],
    "MAX_IN_FLIGHT": [*BAD_COUNTS, "0"],
    "MAX_BUFFERED_BODY": BAD_COUNTS,
    "MAX_BUFFERED_TOTAL": BAD_COUNTS,
    "INSTANCE_FOLDER": BAD_TEXT,
    "MLFLOW_SERVER_URL": BAD_URLS,
    "MLFLOW_UPSTREAM_TOKEN": BAD_TEXT,
    "MLFLOW_UPSTREAM_USERNAME": BAD_TEXT,
    "MLFLOW_UPSTREAM_PASSWORD": BAD_TEXT,
    "MLFLOW_IDENTITY_SECRET": [*BAD_TEXT, "s3cret" * 5, "s3cret," * 5, "s3cret " * 5],
    "MLFLOW_CONNECT_TIMEOUT": [*BAD_SECONDS, "0.04", "61"],
    "MLFLOW_READ_TIMEOUT": [*BAD_SECONDS, "0", "3601"],
    "MLFLOW_ARTIFACT_READ_TIMEOUT": [*BAD_SECONDS, "0", "3601"],
    "MLFLOW_ARTIFACT_COPY_TIMEOUT": [*BAD_SECONDS, "0", "14401"],
    "MLFLOW_GATEWAY_READ_TIMEOUT": [*BAD_SECONDS, "0", "14401"],
    "MLFLOW_RETRY_DEADLINE": [*BAD_SECONDS, "61"],
    "MLFLOW_KEEPALIVE": [*BAD_SECONDS, "3601"],
    "MLFLOW_CONNECTION_MAX_AGE": [*BAD_SECONDS, "0", "86401"],
    "MLFLOW_POOL_SIZE": [*BAD_COUNTS, "0", "10001"],
    "HOKUSAI_AUTH_SERVICE_URL": BAD_URLS,
    "HOKUSAI_AUTH_SERVICE_ID": BAD_TEXT,
    "AUTH_LOOKUP_TOKEN": BAD_TEXT,
    "AUTH_TIMEOUT": [*BAD_SECONDS, "0", "61"],
    "AUTH_CACHE_TTL": [*BAD_SECONDS, "3601"],
    "AUTH_NEGATIVE_TTL": [*BAD_SECONDS, "3601"],
    "AUTH_STALE_TTL": BAD_SECONDS,
    "AUTH_RETRY_INTERVAL": [*BAD_SECONDS, "61"],
    "AUTH_CACHE_SECRET": BAD_TEXT,
    "SESSION_LIFETIME": [*BAD_SECONDS, "0"],
    "SESSION_IDLE": [*BAD_SECONDS, "0"],
    "AUTH_FAILURE_LIMIT": [*BAD_COUNTS, "0"],
    "REDIS_URL": [
        "localhost:6379",
        "redis",
        "http://redis:6379",
        "REDIS:/redis",
        "redis://:s3cret@redis:port/0",
        "redis://:s3cret@redis:65536/0",
        "redis+sentinel://a:1,b:2",
        "redis://:s3cret#@redis:6379/0",
        "redis://redis:6379/0?s3cret=1",
        "redis+sentinel://a:1,:2/mine",
        "redis+sentinel://a:1/mine/zero",
        "redis+cluster://a:1,b:port",
    ],
    "REDIS_TIMEOUT": [*BAD_SECONDS, "0", "6"],
    "REDIS_RETRY_INTERVAL": [*BAD_SECONDS, "0.01", "61"],
    "MAX_IN_FLIGHT_PER_KEY": [*BAD_COUNTS, "0"],
    "INSTANCES": [*BAD_COUNTS, "0", "10001"],
    "CIRCUIT_FAIL_MAX": [*BAD_COUNTS, "0"],
    "CIRCUIT_RESET_TIMEOUT": [*BAD_SECONDS, "0.04", "3601"],
    "HEALTH_TIMEOUT": [*BAD_SECONDS, "0", "31"],
    "HEALTH_CACHE_TTL": [*BAD_SECONDS, "61"],
    "METRICS_EMF": ["2", "emf"],
    "METRICS_EMF_INTERVAL": [*BAD_SECONDS, "0.9", "3601"],
    "METRICS_EMF_NAMESPACE": [*BAD_TEXT, ":ours", "AWS/EC2", "x" * 256],
    "METRICS_EMF_SERVICE": [*BAD_TEXT, ":ours", "AWS/EC2", "x" * 256],
    "SPLIT_SCOPES": ["2", "write"],
    "MLFLOW_PROXY_DEBUG": ["2", "ja", "truee"],
    "LOG_LEVEL": ["TRACE", "INFO,DEBUG"],
    "LOG_FORMAT": ["xml"],
    "AUDIT_LOG": ["stdout", "audit.log", "/", "/no/such/folder/audit.log"],
    "ALLOWED_LOCATIONS": [
        *BAD_TEXT,
        "bucket/folder",
        "s3:bucket",
        "s3://bucket/a/../b",
        "s3://bucket,",
        "s3://bucket/?a=b",
        "https://user:s3cret@host/",
        "C:\\mlruns",
    ],
    "MLFLOW_WORKSPACES": ["yes", "true", "team-a"],
    "OTEL_ENABLED": ["2", "ja", "truee"],
}


def test_each_setting_has_bad_values_here() -> None:
    assert BAD.keys() == ROWS.keys()


@pytest.mark.parametrize(
    ("variable", "given"), [(variable, given) for variable in BAD for given in BAD[variable]]
)
def test_a_bad_value_is_complained_of_by_name_and_not_repeated(variable: str, given: str) -> None:
    told = [each for each in complaints_about(**{variable: given}) if each.startswith(variable)]
    assert len(told) == 1
    assert f"{variable} must" in told[0] or f"{variable} has" in told[0] or " is not " in told[0]
    assert "s3cret" not in told[0]


@pytest.mark.parametrize("variable", ROWS)
def test_no_complaint_repeats_the_value(variable: str) -> None:
    assert "s3cret" not in str(BadSettings(complaints_about(**{variable: "s3cret\x07"})))


def test_all_complaints_come_at_once() -> None:
    wrong = {variable: values[0] for variable, values in BAD.items()}
    complaints = complaints_about(**wrong)
    assert sorted(complaint.split(" ")[0] for complaint in complaints) == sorted(ROWS)
    told = str(BadSettings(complaints))
    assert f"{len(ROWS)} invalid setting(s)" in told
    assert all(f"\n  - {complaint}" in told for complaint in complaints)


# --- secrets -------------------------------------------------------------------------------------


def test_what_may_hold_a_password_is_secret() -> None:
    assert SECRETS == [
        "AUTH_CACHE_SECRET",
        "AUTH_LOOKUP_TOKEN",
        "MLFLOW_IDENTITY_SECRET",
        "MLFLOW_UPSTREAM_PASSWORD",
        "MLFLOW_UPSTREAM_TOKEN",
        "REDIS_URL",
    ]


@pytest.mark.parametrize("variable", SECRETS)
def test_a_secret_stands_in_no_complaint(variable: str) -> None:
    complaints = complaints_about(**{variable: "s3cr\u00e9t-value\n", "BIND": "wrong"})
    assert "s3cr" not in str(BadSettings(complaints))


def test_no_secret_stands_in_the_settings_repr() -> None:
    given = {
        "AUTH_CACHE_SECRET": "s3cret-1",
        "MLFLOW_UPSTREAM_USERNAME": "ann",
        "MLFLOW_UPSTREAM_PASSWORD": "s3cret-2",
        "REDIS_URL": "redis://:s3cret-3@redis:6379/0",
    }
    settings = load(given)
    assert settings.redis_url == given["REDIS_URL"]
    assert "ann" in repr(settings)
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in repr(load({"MLFLOW_UPSTREAM_TOKEN": "s3cret-4"}))


# --- contradictions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"MLFLOW_UPSTREAM_USERNAME": "ann"}, "must be set together"),
        ({"MLFLOW_UPSTREAM_PASSWORD": "s3cret"}, "must be set together"),
        (
            {
                "MLFLOW_UPSTREAM_TOKEN": "s3cret",
                "MLFLOW_UPSTREAM_USERNAME": "ann",
                "MLFLOW_UPSTREAM_PASSWORD": "s3cret",
            },
            "exclude each other",
        ),
        (
            {
                "MLFLOW_IDENTITY_SECRET": "s3cret" * 6,
                "MLFLOW_UPSTREAM_USERNAME": "ann",
                "MLFLOW_UPSTREAM_PASSWORD": "s3cret",
            },
            "MLFLOW_IDENTITY_SECRET and MLFLOW_UPSTREAM_USERNAME exclude each other",
        ),
        ({"REDIS_URL": "memory://", "WEB_CONCURRENCY": "2"}, "WEB_CONCURRENCY must be 1"),
        ({"MAX_BUFFERED_TOTAL": "1000"}, "MAX_BUFFERED_BODY must not be above"),
        (
            {"MAX_BUFFERED_BODY": "11", "MAX_BUFFERED_TOTAL": "10"},
            "MAX_BUFFERED_BODY must not be above MAX_BUFFERED_TOTAL",
        ),
        ({"DRAIN_DELAY": "90"}, "DRAIN_DELAY must be below GRACEFUL_TIMEOUT"),
        ({"DRAIN_DELAY": "5", "GRACEFUL_TIMEOUT": "5"}, "DRAIN_DELAY must be below"),
    ],
)
def test_two_settings_that_contradict_each_other(environ: dict[str, str], complaint: str) -> None:
    (told,) = complaints_about(**environ)
    assert complaint in told
    assert "s3cret" not in told


def test_a_contradiction_is_told_beside_a_bad_value() -> None:
    complaints = complaints_about(BIND="wrong", MLFLOW_UPSTREAM_USERNAME="ann")
    assert [complaint.split(" ")[0] for complaint in complaints] == [
        "BIND",
        "MLFLOW_UPSTREAM_USERNAME",
    ]


def test_a_new_audit_file_needs_no_more_than_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    assert load({"AUDIT_LOG": str(file)}).audit_log == str(file)
    assert not file.exists(), "a look at the settings must not leave a file behind"


@pytest.mark.parametrize(("given", "refused"), [("true", True), ("false", False)])
def test_telemetry_is_refused_where_its_packages_are_not_installed(
    given: str, refused: bool
) -> None:
    """-S: an interpreter that has the standard library only."""
    finished = subprocess.run(
        [sys.executable, "-S", "-c", "import os; from config import load; load(os.environ)"],
        cwd=ROOT,
        env={"OTEL_ENABLED": given, "BIND": "wrong"},
        capture_output=True,
        text=True,
        check=False,
    )
    told = "OTEL_ENABLED needs packages that are not installed; install requirements/telemetry"
    assert (told in finished.stderr) == refused
    assert "BIND must be" in finished.stderr, "with all the other complaints"


def test_memory_implies_one_worker() -> None:
    assert load({"REDIS_URL": "memory://"}).web_concurrency == 1
    assert load({"REDIS_URL": "memory://", "WEB_CONCURRENCY": "1"}).web_concurrency == 1


# --- the reference page --------------------------------------------------------------------------


def test_the_reference_page_is_the_generated_one() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "run: .venv/bin/python -m config > docs/configuration.md"


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_the_reference_page_has_every_setting(row: "Field[Any]") -> None:
    (line,) = [
        line
        for line in reference().splitlines()
        if line.startswith(f"| `{row.metadata['variable']}`")
    ]
    assert row.metadata["help"] in line
    assert line.count("|") == 4, "a bar in the text would break the table"
    assert ("Secret: never printed." in line) == row.metadata["secret"]


def test_the_command_prints_the_page() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "config"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (finished.stdout, finished.stderr) == (reference(), "")


@pytest.mark.parametrize(
    ("connections", "in_flight", "forwarded"), [("2000", "512", 512), ("100", "512", 60)]
)
def test_forwarded_requests_leave_connections_for_others(
    connections: str, in_flight: str, forwarded: int
) -> None:
    settings = load({"MAX_CONNECTIONS": connections, "MAX_IN_FLIGHT": in_flight})
    assert settings.max_forwarded == forwarded


@pytest.mark.parametrize(
    ("given", "per_key"),
    [
        ({}, 64),
        ({"MAX_IN_FLIGHT": "32"}, 16),
        ({"MAX_IN_FLIGHT": "1"}, 1),
        ({"MAX_CONNECTIONS": "60"}, 18),
        ({"MAX_IN_FLIGHT": "32", "MAX_IN_FLIGHT_PER_KEY": "32"}, 32),
    ],
)
def test_one_key_takes_every_place_only_where_that_is_said(
    given: dict[str, str], per_key: int
) -> None:
    assert load(given).max_in_flight_per_key == per_key


@pytest.mark.parametrize(
    ("given", "copy"),
    [
        ({}, 900.0),
        ({"MLFLOW_ARTIFACT_READ_TIMEOUT": "3600"}, 3600.0),
        ({"MLFLOW_ARTIFACT_READ_TIMEOUT": "3600", "MLFLOW_ARTIFACT_COPY_TIMEOUT": "60"}, 60.0),
    ],
)
def test_a_longer_timeout_of_artifacts_covers_their_copies_too(
    given: dict[str, str], copy: float
) -> None:
    """It was the only one before copies had their own."""
    assert load(given).mlflow_artifact_copy_timeout == copy
