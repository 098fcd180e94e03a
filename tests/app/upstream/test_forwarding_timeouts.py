"""Forwarding: how long MLflow may take, by route and by direction."""

import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from urllib3 import exceptions as theirs

from app.request.errors import UpstreamTimeout
from app.request.route_table import Route
from app.upstream.streaming import Body
from devstack.environments import ROOT
from tests.app.samples import READ, TRANSFER, permit
from tests.app.upstream.forwarders import NO_BODY, QUICK, MakeForwarder, forward
from tests.upstreams import Answer, Upstream, head, pause, pieces_of, send, silence, sized


def test_an_upload_is_not_bounded_by_the_connect_time_out(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    mlflow.answers(Answer(pause(0.2), send(sized(b"{}")), early=True))
    forwarder = make_forwarder(mlflow.url, mlflow_connect_timeout=0.1)
    size = 8 * 1024 * 1024
    for _ in range(2):  # on a new connection, and on a reused one
        forward(forwarder, "PUT", body=Body(pieces_of(size), size), route=TRANSFER)
        mlflow.wait_for(lambda: mlflow.requests[-1].end is not None, "the end of the upload")
    assert [asked.length for asked in mlflow.requests] == [size, size]
    assert mlflow.connections == 1


def test_an_mlflow_that_takes_no_more_of_an_upload(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    mlflow.answers(Answer(pause(20), early=True))
    size = 64 * 1024 * 1024
    forwarder = make_forwarder(mlflow.url, **QUICK)
    with pytest.raises(UpstreamTimeout):
        forward(forwarder, "PUT", body=Body(pieces_of(size), size), route=TRANSFER)


#: Takes the loopback interface down, in a network namespace of its own, and asks then.
VANISHING = """
import fcntl, socket, struct, time
from app.request.errors import UpstreamReset
from app.upstream.circuit import Circuit
from app.upstream.forwarding import Upstream
from app.upstream.names import NAMES
from app.upstream.streaming import Body
from tests.app.samples import TRANSFER, inbound, permit, settings
from tests.upstreams import Upstream as Fake

def loopback(is_up):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:
        name = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any, 0x8913, name)[:18])[1]  # SIOCGIFFLAGS
        fcntl.ioctl(any, 0x8914, struct.pack("16sh14x", b"lo", flags & ~1 | is_up))

loopback(True)
fake = Fake().__enter__()
limits = {"mlflow_artifact_read_timeout": 1.0, "mlflow_artifact_copy_timeout": 40.0,
          "mlflow_retry_deadline": 0.0}
forwarder = Upstream(settings(mlflow_server_url=fake.url, **limits), Circuit("mlflow", 5, 60))
ask = lambda: forwarder.forward(permit(inbound("GET", "/mlflow/x"), route=TRANSFER), Body(None, 0))
upload = permit(inbound("PUT", "/mlflow/x"), route=TRANSFER)
forwarder.forward(upload, Body(iter([b"x"]), 1)).data  # the same connection, with other limits
print(ask().data, fake.connections)
loopback(False)
began = time.monotonic()
try:
    ask()
except UpstreamReset as why:
    print(type(why.__cause__.args[-1]).__name__, time.monotonic() - began < 30, flush=True)
import os; os._exit(0)
"""


@pytest.mark.slow
def test_an_mlflow_whose_host_is_gone_holds_no_request_for_a_whole_copy() -> None:
    """Nobody acknowledges the request, so nothing of the keep-alive is sent."""
    alone = ["unshare", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no network namespace may be made here")
    command = [*alone, sys.executable, "-c", VANISHING]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.stdout.splitlines() == ["b'{}' 1", "ConnectionAbortedError True"], done.stderr


SLOW = replace(READ, is_slow=True)
MODEL = replace(READ, asks_model=True)


@pytest.mark.parametrize(
    ("route", "limit"),
    [(READ, 0.05), (None, 0.05), (SLOW, 0.15), (TRANSFER, 0.25), (MODEL, 0.35)],
)
def test_what_a_route_does_decides_how_long_it_may_take(
    mlflow: Upstream, make_forwarder: MakeForwarder, route: Route | None, limit: float
) -> None:
    mlflow.answers(Answer(silence()))
    forwarder = make_forwarder(
        mlflow.url,
        mlflow_read_timeout=0.05,
        mlflow_artifact_read_timeout=0.15,
        mlflow_artifact_copy_timeout=0.25,
        mlflow_gateway_read_timeout=0.35,
    )
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout, match=f"{limit:g} s"):
        forward(forwarder, route=route)
    assert limit <= time.monotonic() - began < limit + 2


def test_mlflow_may_copy_before_it_answers_but_not_pause_in_the_answer(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    waits = Answer(pause(0.3), send(head(200, ("Content-Length", "2"))), send(b"x"), silence())
    mlflow.answers(waits)
    forwarder = make_forwarder(
        mlflow.url,
        mlflow_read_timeout=0.1,
        mlflow_artifact_read_timeout=0.1,
        mlflow_artifact_copy_timeout=60,
    )
    answer = forwarder.forward(permit(route=TRANSFER), NO_BODY)
    assert answer.status == 200
    began = time.monotonic()
    with pytest.raises(theirs.ReadTimeoutError):
        answer.read()
    assert time.monotonic() - began < 20
    answer.close()
