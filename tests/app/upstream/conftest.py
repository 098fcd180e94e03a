"""Fixtures of the forwarding tests: MLflow's end of the wire, and what forwards to it."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.upstream.circuit import Circuit
from app.upstream.forwarding import Upstream as Forwarder
from tests.app.samples import settings
from tests.app.upstream.forwarders import MakeForwarder
from tests.upstreams import Upstream


@pytest.fixture
def mlflow() -> Iterator[Upstream]:
    """MLflow's end of the wire."""
    with Upstream() as server:
        yield server


@pytest.fixture
def make_forwarder() -> Iterator[MakeForwarder]:
    """`make_forwarder(url, **settings)`; it does not try again unless told to."""
    made = []

    def make(
        url: str, fail_max: int = 1000, reset_timeout: float = 60, **changes: Any
    ) -> Forwarder:
        chosen = settings(**{"mlflow_server_url": url, "mlflow_retry_deadline": 0.0} | changes)
        made.append(Forwarder(chosen, Circuit("mlflow", fail_max, reset_timeout)))
        return made[-1]

    yield make
    for forwarder in made:
        forwarder._pool.close()


@pytest.fixture
def forwarder(mlflow: Upstream, make_forwarder: MakeForwarder) -> Forwarder:
    return make_forwarder(mlflow.url)
