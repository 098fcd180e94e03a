"""An auth service and an MLflow for artifacts that cost little: `python fakes.py PORT`."""

import logging
import sys
import threading
import time
from collections.abc import Iterator

from flask import Flask, Response, request
from werkzeug.serving import make_server

PIECE = bytes(2**20)

#: Nobody looks at what is read into it.
SINK = bytearray(2**20)

#: A paced stream: 16 KiB five times a second, without end.
PACED, PACE = bytes(16 * 1024), 0.2

#: In requests per hour: nobody reaches it, but it is counted.
LIMIT = 2_000_000_000

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"

app = Flask(__name__)
streams = set[object]()


@app.post("/api/v1/keys/validate")
def validate() -> dict[str, object]:
    """Every key is valid; its last part is its id."""
    key = request.headers.get("Authorization", "").rpartition("_")[2]
    valid = {"user_id": "bench", "key_id": f"key_{key}", "service_id": "platform"}
    return valid | {"scopes": ["read", "write"], "rate_limit_per_hour": LIMIT}


@app.get(f"{ARTIFACTS}/bytes/<int:size>")
def download(size: int) -> Response:
    pieces = (PIECE[: size - start] for start in range(0, size, len(PIECE)))
    return Response(pieces, headers={"Content-Length": str(size)})


@app.get(f"{ARTIFACTS}/paced")
def paced() -> Response:
    return Response(_paced(), headers={"Content-Length": str(2**50)})


def _paced() -> Iterator[bytes]:
    streams.add(own := object())
    try:
        while True:
            yield PACED
            time.sleep(PACE)
    finally:
        streams.remove(own)


@app.put(f"{ARTIFACTS}/<path:name>")
def upload(name: str) -> dict[str, object]:
    left, body = request.content_length or 0, request.environ["wsgi.input"]
    while left and (size := body.readinto(memoryview(SINK)[:left])):  # Flask would copy it
        left -= size
    return {}


@app.get("/streams")
def open_streams() -> str:
    """How many paced streams are open."""
    return str(len(streams))


@app.get("/<path:path>")
def anything(path: str) -> dict[str, object]:
    return {}


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel("ERROR")  # else it logs a line a request
    threading.stack_size(256 * 1024)
    make_server("127.0.0.1", int(sys.argv[1]), app, threaded=True).serve_forever()
