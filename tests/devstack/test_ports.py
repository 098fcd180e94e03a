"""Free ports."""

import socket

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
