"""What a hop in front can do to requests and answers, each told apart by its name."""

from collections.abc import Callable
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.app.doctor.conftest import Finished
from tests.app.doctor.hops import Hop

HOPS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing wrong": ({}, set()),
    "HTTP/1.0": ({"version": "1.0"}, {"http10-hop"}),
    "1 MB": ({"body_limit": 1_000_000}, {"body-limit"}),
    "breaks hidden": ({"hides_breaks": True}, {"breaks-hidden"}),
    "another Host": ({"host": "proxy.internal:8000"}, {"host-rewritten"}),
    "no Origin": ({"without": ("origin",)}, {"origin-lost"}),
    "own error pages": ({"replaces_errors": True}, {"answers-changed"}),
    "no X-API-Key": ({"without": ("x-api-key",)}, {"credential-lost"}),
    "no X-Request-ID": ({"without": ("x-request-id",)}, {"request-id-lost"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOPS)
def test_what_a_hop_does_has_a_name(
    examine: Callable[..., Finished], proxy: Proxy, key: str, name: str
) -> None:
    faults, names = HOPS[name]
    with Hop(proxy.port, **faults) as hop:
        done = examine(f"{hop.url}/mlflow", key)
    assert set(done.report["faults"]) == names, done.not_passed
    assert done.status == (1 if names else 0)
