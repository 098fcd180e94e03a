"""A name server on the wire: answers for the names it knows, moves them, or stays silent.

A process is made to ask it by a mount namespace of its own, in which /etc/resolv.conf is ours: the
machine's is not touched, and nobody else sees it. That takes Linux, and the right to make such a
namespace and to bind port 53 (resolv.conf has no ports): `needs_name_server` skips without them.
"""

import random
import shutil
import socket
import struct
import subprocess
import threading
from pathlib import Path

from devstack.proxy import Proxy

A, AAAA, IN = 1, 28, 1
NAME_ERROR, SERVER_FAILURE = 3, 2


class NameServer:
    """A name server on port 53 of a loopback address; a context manager. `names` maps a name to its
    addresses, IPv4 or IPv6. While `frozen` it answers nothing, nor ever for the names in `silent`;
    while `failing` it says SERVFAIL. `asked` has the names of all questions, in order."""

    def __init__(self, folder: Path, names: dict[str, list[str]]) -> None:
        self.names = names
        self.frozen = False
        self.failing = False
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.resolv_conf = folder / "resolv.conf"
        self._socket, self.address = _bound()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "NameServer":
        self.resolv_conf.write_text(f"nameserver {self.address}\n")
        self._thread.start()
        return self

    def __exit__(self, *why: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def for_process(self, command: list[str]) -> list[str]:
        """The command, run where this is the name server."""
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(self.resolv_conf), *command]

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(512)
            if not question:
                return
            name, kind, end = _question(question)
            self.asked.append(name)
            if not self.frozen and name not in self.silent:
                self._socket.sendto(self._answer(question[:end], name, kind), client)

    def _answer(self, question: bytes, name: str, kind: int) -> bytes:
        known = self.names.get(name)
        code = SERVER_FAILURE if self.failing else NAME_ERROR if known is None else 0
        records = [] if code else [_record(address) for address in known or ()]
        records = [record for record in records if record[2:4] == struct.pack(">H", kind)]
        head = question[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        return head + question[12:] + b"".join(records)

    def proxies(self) -> type[Proxy]:
        """The class of proxies that ask this name server."""
        for_process = self.for_process

        class NamedProxy(Proxy):
            """A proxy in a mount namespace of its own."""

            def start(self) -> None:
                plain, self.command = self.command, for_process(self.command)
                super().start()
                self.command = plain

        return NamedProxy


def why_not() -> str | None:
    """Why no name server can be put under a process here; None if it can."""
    if not shutil.which("unshare"):
        return "there is no unshare(1)"
    probe = ["unshare", "--mount", "sh", "-c", "mount --bind /dev/null /etc/resolv.conf"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        return "no mount namespace may be made here"
    try:
        _bound()[0].close()
    except OSError:
        return "port 53 may not be bound here"
    return None


def _bound() -> tuple[socket.socket, str]:
    """A socket on port 53 of a loopback address that nobody else uses."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(20):
        address = f"127.53.{random.randrange(256)}.{random.randrange(1, 255)}"
        try:
            bound.bind((address, 53))
        except PermissionError:
            bound.close()
            raise
        except OSError:
            continue
        return bound, address
    bound.close()
    raise OSError("no loopback address is free on port 53")


def _record(address: str) -> bytes:
    """The record of an address, for the name that was asked for."""
    family, kind = (socket.AF_INET6, AAAA) if ":" in address else (socket.AF_INET, A)
    data = socket.inet_pton(family, address)
    return struct.pack(">HHHIH", 0xC00C, kind, IN, 0, len(data)) + data


def _question(data: bytes) -> tuple[str, int, int]:
    """The name that is asked for, the record's type, and where the question ends."""
    labels, at = [], 12
    while size := data[at]:
        labels.append(data[at + 1 : at + 1 + size].decode("latin-1").lower())
        at += 1 + size
    return ".".join(labels), struct.unpack(">H", data[at + 1 : at + 3])[0], at + 5
