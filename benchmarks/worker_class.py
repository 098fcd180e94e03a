"""Which gunicorn worker class: ordinary requests beside 200 stalled clients, side by side.

    .venv/bin/python -m benchmarks.worker_class

For each class the real proxy is started with one worker in front of a small upstream, then stalled
clients of three kinds are attached, and ordinary requests are timed beside them. Loopback only; it
takes about two minutes. docs/decisions/worker-class.md discusses a run.
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import requests

STALLED = 200
ORDINARY = 100
SLOW_CALLS = 128
SLOW_SECONDS = 0.5
BIG = 64 * 1024 * 1024
KEY = "hk_test_benchmark_key"

CLASSES = {
    "gevent (ours)": [],
    "gthread, 16 threads": ["-k", "gthread", "--threads", "16"],
    "gthread, 128 threads": ["-k", "gthread", "--threads", "128"],
    "gthread, 512 threads": ["-k", "gthread", "--threads", "512"],
}


class Peer(BaseHTTPRequestHandler):
    """Auth service and MLflow in one: any key is valid; answers quickly, slowly, or at length."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """The auth service's answer, or what swallows an upload."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(json.dumps({"user_id": "u", "key_id": "k", "scopes": ["admin"]}).encode())

    do_PUT = do_POST

    def do_GET(self) -> None:
        """MLflow's answer."""
        if "slow" in self.path:
            time.sleep(SLOW_SECONDS)
        if "big" in self.path:
            self._head(BIG)
            with contextlib.suppress(OSError):
                for _ in range(BIG // 65536):
                    self.wfile.write(bytes(65536))
            return
        self._answer(b"{}")

    def _answer(self, body: bytes) -> None:
        with contextlib.suppress(OSError):  # the proxy hung up on a stalled upload
            self._head(len(body))
            self.wfile.write(body)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def peer() -> Iterator[str]:
    """The address of the auth service and MLflow."""
    ThreadingHTTPServer.request_queue_size = 512
    ThreadingHTTPServer.daemon_threads = True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@contextlib.contextmanager
def proxy(options: list[str], peer_url: str) -> Iterator[tuple[str, int]]:
    """The real proxy with these options: (its address, its process id)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "BIND": f"127.0.0.1:{port}",
        "MLFLOW_SERVER_URL": peer_url,
        "HOKUSAI_AUTH_SERVICE_URL": peer_url,
        "REDIS_URL": "memory://",
        "WEB_CONCURRENCY": "1",
        "MAX_IN_FLIGHT_PER_KEY": "10000",
        "MAX_IN_FLIGHT": "10000",
        "GRACEFUL_TIMEOUT": "1",
    }
    command = [str(Path(sys.executable).with_name("gunicorn")), "-c", "gunicorn.conf.py", *options]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "wsgi:app"], env=os.environ | settings, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url)
            yield url, process.pid
        finally:
            process.kill()
            process.wait()
            for child in psutil.process_iter(["cmdline"]):
                if f"127.0.0.1:{port}" in str(child.info["cmdline"]):
                    child.kill()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.get(url + "/health", timeout=1).ok:
                return
        time.sleep(0.05)
    raise SystemExit("the proxy did not start")


def _attach(url: str, data: bytes) -> list[socket.socket]:
    """STALLED connections that send this much and then neither send nor read."""
    host, port = url.removeprefix("http://").split(":")
    held = []
    for _ in range(STALLED):
        connection = socket.create_connection((host, int(port)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.sendall(data)
        held.append(connection)
    time.sleep(1.0)  # let the worker take them all
    return held


HEAD = f"Host: x\r\nX-API-Key: {KEY}\r\n"
ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/"
KINDS: dict[str, bytes] = {
    "none": b"",
    "one byte, then silence": b"G",
    "stalled uploads": (
        f"PUT {ARTIFACT}up HTTP/1.1\r\n{HEAD}Content-Length: 9999999\r\n\r\n".encode() + bytes(1000)
    ),
    "readers that do not read": f"GET {ARTIFACT}big HTTP/1.1\r\n{HEAD}\r\n".encode(),
}


def _times(url: str, path: str) -> tuple[list[float], int]:
    """Milliseconds of ORDINARY requests on connections of their own, and how many failed."""
    times: list[float] = []
    failed = 0
    for _ in range(ORDINARY):
        began = time.monotonic()
        try:
            answer = requests.get(url + path, headers={"X-API-Key": KEY}, timeout=2)
            failed += answer.status_code != 200
        except requests.RequestException:
            failed += 1
            if failed >= 3:  # it is starved; no need to wait for all of them
                return times, ORDINARY - len(times)
        times.append((time.monotonic() - began) * 1000)
    return times, failed


def _slow_calls(url: str) -> float:
    """Seconds for SLOW_CALLS calls of SLOW_SECONDS at the same time."""

    def call() -> None:
        with contextlib.suppress(requests.RequestException):
            requests.get(url + "/api/mlflow/slow", headers={"X-API-Key": KEY}, timeout=60)

    threads = [threading.Thread(target=call) for _ in range(SLOW_CALLS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


def _memory(pid: int) -> float:
    """MiB of the worker."""
    return max(child.memory_info().rss for child in psutil.Process(pid).children()) / 2**20


def _row(options: list[str], peer_url: str, show: Callable[[str], None]) -> None:
    for kind, data in KINDS.items():
        with proxy(options, peer_url) as (url, pid):
            held = _attach(url, data) if data else []
            for path in ("/health", "/api/mlflow/version"):
                times, failed = _times(url, path)
                quick = sorted(times) or [0.0]
                p50, p99 = statistics.median(quick), quick[int(len(quick) * 0.99) - 1]
                show(f"| {kind} | `{path}` | {p50:.1f} | {p99:.1f} | {failed}/{ORDINARY} |")
            if not data:
                show(
                    f"| {SLOW_CALLS} × {SLOW_SECONDS} s at once | | {_slow_calls(url):.1f} s | | |"
                )
            show(f"| | memory | {_memory(pid):.0f} MiB | | |")
            for connection in held:
                connection.close()


def main() -> None:
    """Prints one table per class, Markdown."""
    with peer() as peer_url:
        for name, options in CLASSES.items():
            print(f"\n### {name}\n", flush=True)
            print("| stalled clients (200) | request | p50 ms | p99 ms | failed |", flush=True)
            print("|---|---|---|---|---|", flush=True)
            _row(options, peer_url, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
