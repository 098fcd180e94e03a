"""Groups are taken out and put in while requests run; not one of them is lost."""

import time
from pathlib import Path

import pytest

from devstack.nginx import Nginx
from tests.drills.load import Client, Load
from tests.drills.report import counted
from tests.nginx import require_nginx
from tests.upstreams import Upstream
from tests.wire import request

SWITCHES, CLIENTS = 20, 6


@pytest.mark.slow
def test_no_request_is_lost_while_groups_are_switched_by_the_file(tmp_path: Path) -> None:
    """Kept connections, half of the requests POSTs: where a reload would lose one at every second
    switch (docs/decisions/readiness.md)."""
    require_nginx()
    kept: list[Client] = []
    asked = [
        request(method, "/mlflow/x", "Host: registry.hokus.ai", body=b"{}")
        for method in ("GET", "POST")
    ]

    def ask(number: int) -> int:
        answer = kept[number].ask(asked[number // 2 % 2])
        return answer.status if answer.whole else 0

    with Upstream() as blue, Upstream() as green:
        addresses = {"blue": [f"127.0.0.1:{blue.port}"], "green": [f"127.0.0.1:{green.port}"]}
        nginx = Nginx(tmp_path / "nginx", addresses)
        nginx.start()
        try:
            nginx.wait_until_ready()
            kept += [Client(nginx.url) for _ in range(CLIENTS)]
            with Load(ask, CLIENTS, pause=0.002) as load:
                for number in range(SWITCHES):
                    out, stays = ("blue", green) if number % 2 == 0 else ("green", blue)
                    nginx.take_out(out)
                    _until_asked(stays)
                    nginx.put_in(out)
                    _until_asked(blue, green)
        finally:
            for client in kept:
                client.close()
            nginx.stop()
    assert {*load.statuses} == {200}, counted(load.statuses)


def _until_asked(*servers: Upstream) -> None:
    """Until each of them has got some more requests."""
    wanted = [(server, len(server.requests) + 10) for server in servers]
    deadline = time.monotonic() + 20
    while any(len(server.requests) < number for server, number in wanted):
        assert time.monotonic() < deadline, "one of the groups gets no requests"
        time.sleep(0.005)
