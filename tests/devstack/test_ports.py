"""Free ports."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from devstack.environments import ROOT
from devstack.ports import HOST, free_port, reserve


def test_the_preferred_port_is_held_when_it_is_free() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    with reserve(port) as place:
        assert place.getsockname()[1] == port


def test_another_is_held_when_somebody_holds_it() -> None:
    with reserve(free_port()) as first, reserve(first.getsockname()[1]) as second:
        assert second.getsockname() != first.getsockname()


def test_a_port_can_be_listened_on_once_its_place_is_closed() -> None:
    with reserve(free_port()) as place:
        address = place.getsockname()
    socket.create_server(address).close()


def test_no_port_is_given_twice() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50


#: All processes draw from forty ports, in the same order, and say which ten they have got.
DRAW = """
import random
from devstack import ports
random.sample = lambda among, _: list(range(31_000, 31_040))
print(*[ports.free_port() for _ in range(10)], flush=True)
input()
"""


def test_no_port_is_given_to_two_processes() -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DRAW],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    with ThreadPoolExecutor(3) as threads:
        lines = list(
            threads.map(lambda process: str(process.stdout and process.stdout.readline()), started)
        )
    for process in started:
        process.communicate("\n")
    ports = " ".join(lines).split()
    assert len(ports) == len(set(ports)) == 30
