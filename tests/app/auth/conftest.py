"""Fixtures of the tests of the auth service's client: the service's end of the wire, the client."""

from collections.abc import Callable, Iterator

import pytest

from app.auth.client import AuthService
from app.upstream.circuit import Circuit
from tests.app.auth.auth_service import PATIENT
from tests.upstreams import Upstream


@pytest.fixture
def server() -> Iterator[Upstream]:
    """The auth service's end of the wire."""
    with Upstream() as server:
        yield server


@pytest.fixture
def make_client() -> Iterator[Callable[..., AuthService]]:
    """`make_client(url)`: the client, with a circuit that stays closed unless told otherwise."""
    made: list[AuthService] = []

    def make(url: str, timeout: float = PATIENT, fail_max: int = 1000) -> AuthService:
        circuit = Circuit("auth_service", fail_max, 60)
        made.append(AuthService(url, service_id="platform", timeout=timeout, circuit=circuit))
        return made[-1]

    yield make
    for client in made:
        client._session.close()


@pytest.fixture
def client(server: Upstream, make_client: Callable[..., AuthService]) -> AuthService:
    return make_client(server.url)
