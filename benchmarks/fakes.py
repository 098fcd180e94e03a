"""What stands behind the proxy where MLflow would be in the way: `python -m benchmarks.fakes PORT`.

An auth service that takes any key, and an MLflow whose artifacts come out of nothing and go into
nothing:

    POST /api/v1/keys/validate      valid; the key's last part is its id; a limit nobody reaches
    GET  …/artifacts/bytes/N        N bytes
    GET  …/artifacts/paced          PACED bytes each PACE seconds, without end
    PUT  …                          takes the body in, answers {}
    GET  /streams                   how many paced streams are open
    anything else                   what MLflow answers to a search

One thread a connection: with pieces of a MiB the threads wait in the kernel, not for each other.
"""

import contextlib
import json
import socket
import sys
import threading
import time

PIECE = 2**20

#: A paced stream: 16 KiB five times a second.
PACED = 16 * 1024
PACE = 0.2

#: In requests per hour: nobody reaches it, but it is counted.
LIMIT = 2_000_000_000

#: What MLflow answers to experiments/search where there are three experiments.
SEARCH_ANSWER = json.dumps(
    {
        "experiments": [
            {
                "experiment_id": str(number),
                "name": f"benchmark-{number}",
                "artifact_location": f"mlflow-artifacts:/{number}",
                "lifecycle_stage": "active",
                "last_update_time": 1790000000000 + number,
                "creation_time": 1790000000000 + number,
            }
            for number in range(3)
        ]
    }
)


class Connection:
    """One client, request after request."""

    open_streams = 0
    guard = threading.Lock()

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._room = memoryview(bytearray(PIECE))

    def serve(self) -> None:
        """Answers until the client goes."""
        with self._socket, contextlib.suppress(OSError):
            while head := self._head():
                self._answer(head)

    def _answer(self, head: str) -> None:
        method, target, _ = head.split(" ", 2)
        self._swallow(head)
        last = target.rpartition("/")[2]
        if target.endswith("/keys/validate"):
            self._send(json.dumps(_verdict(head)).encode())
        elif method == "GET" and "/bytes/" in target:
            self._bytes(int(last))
        elif last == "paced":
            self._paced()
        elif last == "streams":
            self._send(str(Connection.open_streams).encode())
        else:
            self._send(b"{}" if method == "PUT" else SEARCH_ANSWER.encode())

    def _head(self) -> str:
        """The next request's head; empty where the client is gone."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            size = self._socket.recv_into(self._room)
            if not size:
                return ""
            self._buffer += self._room[:size]
        head = self._buffer[:end].decode("latin-1")
        del self._buffer[: end + 4]
        return head

    def _swallow(self, head: str) -> None:
        """Takes a sized body in."""
        missing = int(_field(head, "content-length") or 0)
        taken = min(missing, len(self._buffer))
        del self._buffer[:taken]
        missing -= taken
        while missing:
            size = self._socket.recv_into(self._room[: min(PIECE, missing)])
            if not size:
                raise ConnectionError
            missing -= size

    def _send(self, body: bytes) -> None:
        self._socket.sendall(_head_for(len(body)) + body)

    def _bytes(self, missing: int) -> None:
        self._socket.sendall(_head_for(missing))
        while missing:
            size = min(PIECE, missing)
            self._socket.sendall(self._room[:size])
            missing -= size

    def _paced(self) -> None:
        with Connection.guard:
            Connection.open_streams += 1
        try:
            self._socket.sendall(_head_for(2**50))
            while True:
                self._socket.sendall(self._room[:PACED])
                time.sleep(PACE)
        finally:
            with Connection.guard:
                Connection.open_streams -= 1


def _verdict(head: str) -> dict[str, object]:
    """What the auth service says of any key."""
    key = (_field(head, "authorization") or "").rpartition("_")[2]
    return {
        "user_id": "bench",
        "key_id": f"key_{key}",
        "service_id": "platform",
        "scopes": ["read", "write"],
        "rate_limit_per_hour": LIMIT,
    }


def _field(head: str, name: str) -> str | None:
    for line in head.split("\r\n")[1:]:
        found, _, value = line.partition(":")
        if found.lower() == name:
            return value.strip()
    return None


def _head_for(length: int) -> bytes:
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{length}\r\n\r\n".encode()


def main(port: int) -> None:
    """Serves until it is ended."""
    threading.stack_size(256 * 1024)
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=Connection(sock).serve, daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
