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


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_turn_is_one_for_those_too_whose_bytes_have_just_come(way: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(give_way=way)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert int(told.stdout) <= 3
