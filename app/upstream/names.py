"""Name look-ups: the one way from a host name to a connected socket, for every dependency.

getaddrinfo takes no timeout. With a silent name server it returns after 10 s or more (the timeouts
in resolv.conf), and gevent runs it in a small pool of threads. So each name has one look-up at a
time, in its own thread; callers wait no longer than their connect timeout; and while look-ups fail,
new connections go to the last good addresses. Everything that getaddrinfo honours still applies:
/etc/hosts, search domains, ndots.
"""

import logging
import math
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any

from app.observability.metrics import NAMES_FAILING

log = logging.getLogger("hokusai.names")

#: Seconds for which a result, or a failure, is used without another look-up.
FRESH = 1.0

#: Seconds after which a look-up counts as failing, though it may still return a result.
SLOW = 1.0

#: Share of a connect timeout that a caller waits if the last good addresses are known.
SHARE = 0.5

#: Minimum seconds for a connect, however long the look-up took.
LEAST = 0.05

#: Seconds for which a failed address is tried after the others, and how many are kept.
SHUN, MOST_FAILED = 30.0, 256

#: The name server responded: the name does not exist, or has no address. Discard the last good
#: addresses then: they may belong to another host by now.
NO_SUCH_NAME = frozenset((socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)))

#: Address family, and the socket address without its port: (host,), or (host, flow, scope).
Address = tuple[int, tuple[Any, ...]]


class LookupFailed(socket.gaierror):
    """No name server responded, or none in time."""


class _Name:
    """State of one host name. Written by its look-up, under `guard`."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.guard = threading.Lock()
        self.addresses: list[Address] = []  # the last good ones
        self.error: socket.gaierror | None = None  # of the last look-up
        self.ended = -math.inf  # when the last look-up returned
        self.began = 0.0
        self.running: threading.Event | None = None
        self.failing = False


class Names:
    """Addresses by host name, for one process. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._names: dict[str, _Name] = {}

    def addresses(self, host: str, timeout: float) -> list[Address]:
        """Return the host's addresses, in getaddrinfo's order, after at most `timeout` seconds.

        Raises LookupFailed if no name server responds and no earlier address is known, another
        socket.gaierror if there is no such name.
        """
        if (literal := _literal(host)) is not None:
            return [literal]
        name = self._name(host)
        running = self._begin_unless_fresh(name)
        if running is not None and not (name.failing and name.addresses):
            running.wait(timeout * SHARE if name.addresses else timeout)
        return self._known(name, timeout)

    def failing(self, host: str) -> bool:
        """Whether look-ups of this name currently fail."""
        return host in self._names and self._names[host].failing

    def _name(self, host: str) -> _Name:
        with self._guard:
            return self._names.setdefault(host, _Name(host))

    def _begin_unless_fresh(self, name: _Name) -> threading.Event | None:
        """Return the look-up in progress, begun if the last one is too old; else None."""
        with name.guard:
            if name.running is None and time.monotonic() - name.ended >= FRESH:
                name.began = time.monotonic()
                threading.Thread(
                    target=self._look_up, args=(name,), name="name-lookup", daemon=True
                ).start()  # raises if no thread can be started; then no look-up is registered
                name.running = threading.Event()  # set in time: its end waits for the guard
            return name.running

    def _known(self, name: _Name, timeout: float) -> list[Address]:
        with name.guard:
            if name.running is not None and time.monotonic() - name.began >= SLOW:
                _note(name, "the name server does not respond")
            if name.addresses:
                return name.addresses
            if name.running is None and name.error is not None:
                raise type(name.error)(*name.error.args)  # one object per thread
        raise _failed(f"no response from the name server within {timeout:g} s")

    def _look_up(self, name: _Name) -> None:
        found: list[Address] = []
        error: socket.gaierror | None = None
        try:
            found = _unique(socket.getaddrinfo(name.host, None, type=socket.SOCK_STREAM))
        except socket.gaierror as why:
            error = why if why.errno in NO_SUCH_NAME else _failed(str(why))
        except UnicodeError:  # a label is empty or longer than 63 bytes
            error = socket.gaierror(socket.EAI_NONAME, "not a host name")
        except Exception as why:  # no memory, no file descriptor; callers must not wait forever
            error = _failed(f"{type(why).__name__}: {why}")
        self._end(name, found, error)

    def _end(self, name: _Name, found: list[Address], error: socket.gaierror | None) -> None:
        with name.guard:
            name.error, name.ended = error, time.monotonic()
            if not isinstance(error, LookupFailed):
                name.addresses = found
            running, name.running = name.running, None
            if isinstance(error, LookupFailed):
                _note(name, str(error.strerror))
            elif name.ended - name.began >= SLOW:
                _note(name, f"the look-up took {name.ended - name.began:.1f} s")
            else:
                _note(name, "")
        if running is not None:
            running.set()


class Failed:
    """Socket addresses at which a connection recently failed, for one process. One that swallows
    connects (an IPv6 route that leads nowhere, say) would cost each new connection its share of
    the timeout; at one that hangs, requests would wait until they time out."""

    def __init__(self) -> None:
        self._until: dict[tuple[Any, ...], float] = {}

    def note(self, peer: tuple[Any, ...]) -> None:
        """Record a failure: of a connect, of the TLS handshake, or before a response."""
        if len(self._until) >= MOST_FAILED:
            self._until.clear()
        self._until[peer] = time.monotonic() + SHUN

    def last(self, found: list[Address], port: int) -> list[Address]:
        """Move the addresses that recently failed to the end; keep the order otherwise."""
        if not self._until or len(found) < 2:
            return found
        now = time.monotonic()
        return sorted(found, key=lambda at: self._until.get(_peer(at[1], port), 0.0) > now)


def _peer(address: tuple[Any, ...], port: int) -> tuple[Any, ...]:
    """Return the socket address as getpeername gives it."""
    return (address[0], port, *address[1:])


def _failed(why: str) -> LookupFailed:
    return LookupFailed(socket.EAI_AGAIN, why)


def _note(name: _Name, trouble: str) -> None:
    """Record whether look-ups of this name fail; log and count each change once."""
    if name.failing == bool(trouble):
        return
    name.failing = bool(trouble)
    NAMES_FAILING.inc(1 if trouble else -1)
    if not trouble:
        log.warning("look-ups of %s work again", name.host)
        return
    known = ", ".join(str(address[0]) for _, address in name.addresses)
    then = f"connecting to its last addresses: {known}" if known else "no earlier address is known"
    log.warning("look-ups of %s fail (%s); %s", name.host, trouble, then)


def _literal(host: str) -> Address | None:
    """Return the address of an IP literal; None for a name. One with a scope (`fe80::1%eth0`) is
    left to getaddrinfo, which knows the interfaces."""
    for family, rest in ((socket.AF_INET, ()), (socket.AF_INET6, (0, 0))):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):  # ValueError: a NUL, or not ASCII
            continue
        return family, (host, *rest)
    return None


def _unique(found: Iterable[Any]) -> list[Address]:
    """Strip ports and duplicates: /etc/hosts can list an address twice."""
    return list(dict.fromkeys((int(family), (at[0], *at[2:])) for family, _, _, _, at in found))


#: This process's names; its connections use them.
NAMES = Names()


#: The addresses at which a connect or a probe recently failed.
FAILED = Failed()


def open_socket(
    host: str, port: int, timeout: float, options: Iterable[tuple[int, int, int | bytes]] = ()
) -> socket.socket:
    """Connect a socket to the host within `timeout` seconds, which the look-up and all attempted
    addresses share. The remaining time becomes the socket's timeout.

    Raises OSError: socket.gaierror from the look-up, else the last address's error.
    """
    deadline = time.monotonic() + timeout
    found = FAILED.last(NAMES.addresses(host.strip("[]"), timeout), port)
    error: OSError = OSError("the look-up returned no address")
    for number, (family, address) in enumerate(found):
        peer = _peer(address, port)
        left = max(LEAST, deadline - time.monotonic())
        try:
            opened = _connected(family, peer, left / (len(found) - number), options)
        except OSError as why:
            error = why
            FAILED.note(peer)
        else:
            opened.settimeout(max(LEAST, deadline - time.monotonic()))
            return opened
    raise error


def _connected(
    family: int,
    peer: tuple[Any, ...],
    timeout: float,
    options: Iterable[tuple[int, int, int | bytes]],
) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            opened.setsockopt(*option)
        opened.settimeout(timeout)
        opened.connect(peer)
    except BaseException:
        opened.close()
        raise
    return opened
