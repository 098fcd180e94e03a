"""Each error knows its status, a code that MLflow's client knows, and its place in the tree."""

import re
from collections import Counter
from collections.abc import Iterator

import pytest
from mlflow.protos.databricks_pb2 import ErrorCode

from app.request import errors
from app.request.errors import BrokenTransfer, ClientGone, NotForwarded, ProxyError, RateLimited


def family(parent: type[ProxyError]) -> Iterator[type[ProxyError]]:
    yield parent
    for child in parent.__subclasses__():
        yield from family(child)


FAMILY = list(family(ProxyError))

#: What the contract says of each case.
CONTRACT = {
    "BadRequest": (400, "BAD_REQUEST"),
    "Unauthenticated": (401, "UNAUTHENTICATED"),
    "Forbidden": (403, "PERMISSION_DENIED"),
    "RateLimited": (429, "REQUEST_LIMIT_EXCEEDED"),
    "CircuitOpen": (503, "TEMPORARILY_UNAVAILABLE"),
    "Overloaded": (503, "TEMPORARILY_UNAVAILABLE"),
    "AuthServiceUnavailable": (503, "TEMPORARILY_UNAVAILABLE"),
    "UpstreamOverloaded": (503, "TEMPORARILY_UNAVAILABLE"),
    "UpstreamRefusal": (502, "TEMPORARILY_UNAVAILABLE"),
    "UpstreamUnreachable": (502, "TEMPORARILY_UNAVAILABLE"),
    "UpstreamReset": (502, "TEMPORARILY_UNAVAILABLE"),
    "UpstreamTimeout": (504, "DEADLINE_EXCEEDED"),
}


@pytest.mark.parametrize("kind", FAMILY)
def test_each_has_a_status_and_a_code_that_mlflows_client_knows(kind: type[ProxyError]) -> None:
    assert 400 <= kind.status <= 508
    assert kind.code in ErrorCode.DESCRIPTOR.values_by_name
    assert re.fullmatch(r"[a-z_]+", kind.outcome), "it is a label of the metrics"


@pytest.mark.parametrize("name", CONTRACT)
def test_status_and_code_are_the_contracts(name: str) -> None:
    kind = getattr(errors, name)
    assert (kind.status, kind.code) == CONTRACT[name]


def test_the_outcome_tells_which_one_it_was() -> None:
    """Two pairs share theirs: nothing follows from which of the two it was."""
    outcomes = Counter(kind.outcome for kind in FAMILY)
    outcomes[ClientGone.outcome] += 1
    assert {name for name, count in outcomes.items() if count > 1} == {"error", "malformed"}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+)\s+(\d{3})?", errors.__doc__ or ""))
    assert drawn.keys() == {kind.__name__ for kind in FAMILY} - {"ProxyError"}
    for kind in FAMILY:
        if drawn.get(kind.__name__):
            assert int(drawn[kind.__name__]) == kind.status
    assert all(name in (errors.__doc__ or "") for name in ("ClientGone", "BrokenTransfer"))


@pytest.mark.parametrize(("given", "told"), [(-5, "1"), (0, "1"), (1, "1"), (90, "90")])
@pytest.mark.parametrize("kind", [RateLimited, *NotForwarded.__subclasses__(), NotForwarded])
def test_retry_after_is_a_whole_number_of_at_least_one(
    kind: type[RateLimited], given: int, told: str
) -> None:
    assert kind("Later.", given).headers == {"Retry-After": told}


def test_a_limit_adds_its_own_headers() -> None:
    error = RateLimited("Later.", 3, {"X-RateLimit-Limit": "5"})
    assert error.headers == {"Retry-After": "3", "X-RateLimit-Limit": "5"}


def test_a_client_that_is_gone_is_not_taken_for_mlflows_fault() -> None:
    """urllib3 takes an OSError out of a request's body for a broken connection to the server."""
    assert not issubclass(ClientGone, OSError)
    assert not issubclass(ClientGone, ProxyError)


def test_a_broken_transfer_ends_the_clients_connection() -> None:
    """gunicorn drops the connection without a word for ECONNRESET, and logs any other OSError."""
    broken = BrokenTransfer("MLflow ended after 3 of 5 bytes")
    assert isinstance(broken, ConnectionResetError)
    assert "3 of 5" in str(broken)
