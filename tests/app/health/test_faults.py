"""The catalogue of faults: each row is complete, and filled in completely."""

import string
from http.client import IncompleteRead

import pytest

from app.health.faults import FAULTS, Fault, causes, fault, why_no_response


@pytest.mark.parametrize("key", FAULTS)
def test_a_row_is_a_sentence_and_a_remedy(key: str) -> None:
    code, message, remedy = FAULTS[key]
    assert code == code.strip().lower()
    if key != "redis.permission":  # app/state/redis_rights.py writes that
        assert message[0].isupper() or message.startswith("{")
        assert message.endswith(".")
        assert remedy.endswith(".")
    assert str(FAULTS[key]) == f"{message} {remedy}"


def test_braces_are_filled_in_and_none_is_forgotten() -> None:
    assert fault("mlflow.fails", status=500).message == "MLflow answers with status 500."
    with pytest.raises(KeyError):
        fault("mlflow.fails")
    with pytest.raises(KeyError):
        fault("mlflow.unknown")
    named = {name for row in FAULTS.values() for _, name, _, _ in string.Formatter().parse(row[1])}
    assert named - {None} == {"part", "setting", "status", "workers", "place", "message"}


def test_a_fault_without_remedy_is_its_message() -> None:
    assert str(Fault("code", "It broke.", "")) == "It broke."


def test_what_the_sdk_hides_in_arguments_is_found() -> None:
    error = RuntimeError("too many errors", ConnectionRefusedError("refused"))
    assert why_no_response(error) == "refused"
    assert isinstance([*causes(RuntimeError(IncompleteRead(b"")))][-1], IncompleteRead)
