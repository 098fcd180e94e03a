"""An auth service and an MLflow for artifacts that cost little: `python fakes.py PORT`.

POST /api/v1/keys/validate      valid; the key's last part is its id; a limit nobody reaches
GET  …/artifacts/bytes/N        N bytes
GET  …/artifacts/paced          PACED bytes every PACE seconds, without end
PUT  …                          reads the body, answers {}
GET  /streams                   how many paced streams are open
anything else                   {}
"""

import contextlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 2**20

#: A paced stream: 16 KiB five times a second.
PACED = 16 * 1024
PACE = 0.2

#: In requests per hour: nobody reaches it, but it is counted.
LIMIT = 2_000_000_000


class Fake(BaseHTTPRequestHandler):
    """One connection, request after request. Nobody looks at what is in `buffer`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    buffer = memoryview(bytearray(PIECE))
    open_streams = 0
    lock = threading.Lock()

    def handle(self) -> None:
        """Serve until the client goes."""
        with contextlib.suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        """Bytes, a paced stream, or the number of streams."""
        last = self.path.rpartition("/")[2]
        if "/bytes/" in self.path:
            self._send_bytes(int(last))
        elif last == "paced":
            self._send_paced()
        else:
            self._send(str(Fake.open_streams) if last == "streams" else "{}")

    def do_POST(self) -> None:
        """A validation."""
        self._read_body()
        key = self.headers.get("Authorization", "").rpartition("_")[2]
        valid = {"user_id": "bench", "key_id": f"key_{key}", "service_id": "platform"}
        self._send(json.dumps(valid | {"scopes": ["read", "write"], "rate_limit_per_hour": LIMIT}))

    def do_PUT(self) -> None:
        """An upload."""
        self._read_body()
        self._send("{}")

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def _read_body(self) -> None:
        missing = int(self.headers.get("Content-Length", 0))
        while missing:
            size = self.rfile.readinto(self.buffer[: min(PIECE, missing)])
            if not size:
                raise ConnectionError
            missing -= size

    def _send(self, text: str) -> None:
        self._send_head(len(text))
        self.wfile.write(text.encode("ascii"))

    def _send_bytes(self, missing: int) -> None:
        self._send_head(missing)
        while missing:
            size = min(PIECE, missing)
            self.wfile.write(self.buffer[:size])
            missing -= size

    def _send_paced(self) -> None:
        with Fake.lock:
            Fake.open_streams += 1
        try:
            self._send_head(2**50)
            while True:
                self.wfile.write(self.buffer[:PACED])
                time.sleep(PACE)
        finally:
            with Fake.lock:
                Fake.open_streams -= 1

    def _send_head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        self.end_headers()


if __name__ == "__main__":
    threading.stack_size(256 * 1024)
    ThreadingHTTPServer.request_queue_size = 1024
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Fake).serve_forever()
