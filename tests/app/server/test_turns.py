"""Who gives way lets the worker look at its sockets, and not only at what is ready already."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

#: Counts the turns that a busy greenlet has, from the moment on at which something came for
#: another one, until that has read it.
PROGRAM = """
from gevent import monkey
monkey.patch_all()
import gevent, socket, time
{give_way}
sender, receiver = socket.socketpair()
reader = gevent.spawn(receiver.recv, 1)
gevent.sleep(0.1)
sender.sendall(b"x")
turns = 0
while not reader.ready():
    end = time.perf_counter() + 0.002
    while time.perf_counter() < end:
        pass
    give_way()
    turns += 1
print(turns)
"""

WAYS = {
    "a stream": "from app.request.body import yield_to_hub as give_way",
    "the parser": "from app.server.client_socket import BRIEFLY\n"
    "give_way = lambda: gevent.sleep(BRIEFLY)",
}


#: Counts the passes of the loop until as many connections are accepted as wait, beside 40 others.
#: A pass takes as long as the busy connections need.
ACCEPTING = """
from gevent import monkey
monkey.patch_all()
import gevent, socket
from gevent.pool import Pool
from gunicorn.workers import ggevent
import app.server.worker
open_ones = Pool(1000)
for _ in range(40):
    open_ones.spawn(gevent.sleep, 60)
listening = socket.create_server(("127.0.0.1", 0), backlog=200)
clients = [socket.create_connection(listening.getsockname()) for _ in range(200)]
server = ggevent.StreamServer(listening, handle=lambda *_: gevent.sleep(60), spawn=open_ones)
server.max_accept = 1  # as gunicorn does, if there are several workers
server.start()
passes = 0
while len(open_ones) < 240:
    gevent.sleep(1e-9)
    passes += 1
print(passes)
"""


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_turn_is_one_for_those_too_whose_bytes_have_just_come(way: str) -> None:
    assert counted(PROGRAM.format(give_way=way)) <= 3


def test_a_new_connection_does_not_wait_for_each_one_before_it() -> None:
    """A health check came after all that came at once, at one of them in each pass."""
    assert counted(ACCEPTING) < 40


def counted(program: str) -> int:
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(told.stdout)
