"""What counts as a health answer, and what as an internal address in one."""

from typing import Any

import pytest

from app.doctor.health import bad_checks, complaints, internal_addresses

GOOD = {"status": "healthy", "latency_ms": 1.5, "message": "fine"}
ROOT = "https://registry.example"


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"status": "healthy", "version": "1", "checks": {"redis": GOOD}}, []),
        ({"status": "healthy", "version": "1"}, []),
        ({"status": "ok", "version": "1"}, ["status is none of the three words"]),
        ({"status": "healthy"}, ["version is no text"]),
        ({"status": "healthy", "version": "1", "checks": []}, ["checks is no object"]),
        (
            {"status": "healthy", "version": "1", "checks": {"redis": GOOD | {"latency_ms": "1"}}},
            ["checks.redis: latency_ms is no number"],
        ),
    ],
)
def test_the_form(document: dict[str, Any], complaint: list[str]) -> None:
    assert complaints(document) == complaint


def test_a_check_that_must_be_there() -> None:
    document = {"status": "healthy", "version": "1", "checks": {}}
    assert complaints(document, ("models_api",)) == ["checks lacks models_api"]


def test_what_is_not_well_is_one_line() -> None:
    bad = {"status": "unhealthy", "latency_ms": 2, "message": "gone."}
    assert bad_checks({"checks": {"redis": bad, "circuit": GOOD}}) == "redis: gone"
    assert bad_checks({"checks": {"redis": bad, "circuit": bad}}) == "redis, circuit: gone"
    assert bad_checks({"missing": ["draining: being stopped"]}) == "draining: being stopped"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("at http://mlflow:5000/x", ["http://mlflow:5000/x"]),
        ("mlflow.hokusai-development.local:5000", ["mlflow.hokusai-development.local:5000"]),
        ("auth.internal is away", ["auth.internal"]),
        ("redis://cache", ["redis://cache"]),
        ("refused by 10.0.3.7", ["10.0.3.7"]),
        ("Sat, 21 Nov 2026 01:19:27 GMT", []),
        ('"latency_ms":1234', []),
        ("see https://registry.example/docs on registry.example", []),
        ("version 10.0.3", []),
    ],
)
def test_internal_addresses(text: str, found: list[str]) -> None:
    assert internal_addresses(text, ROOT) == found
