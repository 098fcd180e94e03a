"""What may stand in front of the proxy, with the faults that such things have: small HTTP proxies
of real sockets, and nginx itself where this machine has it.

    with Hop(proxy.port, version="1.0", body_limit=1_000_000) as hop:
        ...hop.url...
"""

import http.client
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

from devstack.ports import HOST, free_port
from devstack.server import Server

PIECE = 64 * 1024

#: Fields that each hop makes for itself.
OWN = ("connection", "content-length", "expect", "keep-alive", "transfer-encoding")

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


class Hop:
    """A reverse proxy that buffers bodies, as most do. One thread for each connection."""

    def __init__(
        self,
        target_port: int,
        version: str = "1.1",
        body_limit: int | None = None,
        line_limit: int = 65_536,
        host: str | None = None,
        without: tuple[str, ...] = (),
        hides_breaks: bool = False,
        replaces_errors: bool = False,
    ) -> None:
        """`version` is what it speaks to the target; limits are in bytes; `host` replaces Host, and
        header fields `without` are taken off."""
        self.target_port, self.version = target_port, version
        self.body_limit, self.line_limit = body_limit, line_limit
        self.host, self.without = host, without
        self.hides_breaks, self.replaces_errors = hides_breaks, replaces_errors
        self._server = _Server((HOST, 0), _Connection)
        self._server.hop = self
        self.port: int = self._server.server_address[1]
        self.url = f"http://{HOST}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *why: object) -> None:
        self._server.shutdown()
        self._server.close_connections()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    """Ends its connections before it waits for their threads."""

    allow_reuse_address = True
    hop: Hop

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._live: set[socket.socket] = set()
        self._guard = threading.Lock()

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        with self._guard:
            self._live.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        with self._guard:
            self._live.discard(request)
            request.close()

    def close_connections(self) -> None:
        with self._guard:
            for connection in self._live:
                connection.shutdown(socket.SHUT_RDWR)


class _Refused(Exception):
    """Answered by the hop itself, with a page."""

    def __init__(self, status: int, title: str) -> None:
        super().__init__(title)
        body = f"<html><head><title>{title}</title></head></html>".encode()
        head = f"HTTP/1.1 {status} {title}\r\nContent-Type: text/html\r\nConnection: close\r\n"
        self.answer = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Connection(socketserver.StreamRequestHandler):
    server: _Server
    wbufsize = 0

    def handle(self) -> None:
        try:
            while self._exchange():
                pass
        except _Refused as refused:
            self._say_and_linger(refused.answer)
        except (OSError, EOFError):
            pass

    def _exchange(self) -> bool:
        """One request and its answer; False if there is none any more."""
        line = self.rfile.readline(65_537)
        if not line:
            return False
        hop = self.server.hop
        if len(line) > hop.line_limit:
            raise _Refused(414, "Request-URI Too Large")
        method, target, _ = line.decode("latin-1").split()
        fields = list(iter(self._field, None))
        body = self._body(dict((name.lower(), value) for name, value in fields))
        self._forward(method, target, fields, body)
        return True

    def _field(self) -> tuple[str, str] | None:
        line = self.rfile.readline(65_537).decode("latin-1").rstrip("\r\n")
        name, colon, value = line.partition(":")
        return (name, value.strip()) if colon else None

    def _body(self, fields: dict[str, str]) -> bytes | None:
        limit = self.server.hop.body_limit
        if fields.get("transfer-encoding") == "chunked":
            return self._chunks()
        length = int(fields.get("content-length", -1))
        if limit is not None and length > limit:
            raise _Refused(413, "Request Entity Too Large")
        return self._exactly(length) if length >= 0 else None

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(100).partition(b";")[0], 16):
            body += self._exactly(size)
            self.rfile.readline(100)
        self.rfile.readline(100)
        return body

    def _exactly(self, size: int) -> bytes:
        body = self.rfile.read(size)
        if len(body) < size:
            raise EOFError
        return body

    def _forward(
        self, method: str, target: str, fields: list[tuple[str, str]], body: bytes | None
    ) -> None:
        hop = self.server.hop
        passed = [
            (name, hop.host if hop.host and name.lower() == "host" else value)
            for name, value in fields
            if name.lower() not in (*OWN, *hop.without)
        ]
        passed += [("Connection", "close")]
        passed += [("Content-Length", str(len(body)))] if body is not None else []
        lines = [f"{method} {target} HTTP/{hop.version}", *(f"{n}: {v}" for n, v in passed)]
        with socket.create_connection((HOST, hop.target_port), 30) as behind:
            behind.sendall("\r\n".join((*lines, "", "")).encode("latin-1") + (body or b""))
            answer = http.client.HTTPResponse(behind, method=method)
            answer.begin()
            self._return(answer)

    def _return(self, answer: http.client.HTTPResponse) -> None:
        """The answer, chunked unless it is sized; a break is passed on, or hidden."""
        hop = self.server.hop
        if hop.replaces_errors and answer.status >= 500:
            raise _Refused(answer.status, "Something went wrong")
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in OWN]
        length = answer.getheader("Content-Length")
        framing = f"Content-Length: {length}" if length else "Transfer-Encoding: chunked"
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{n}: {v}" for n, v in kept)]
        self.wfile.write("\r\n".join((*lines, framing, "", "")).encode("latin-1"))
        try:
            while piece := answer.read1(PIECE):
                self.wfile.write(piece if length else b"%x\r\n%s\r\n" % (len(piece), piece))
        except (http.client.HTTPException, OSError):
            if not hop.hides_breaks:
                raise OSError from None
        if not length:
            self.wfile.write(b"0\r\n\r\n")

    def _say_and_linger(self, answer: bytes) -> None:
        """So that a client that is still sending reads the answer."""
        self.wfile.write(answer)
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(5)
        deadline = time.monotonic() + 5
        while self.connection.recv(PIECE) and time.monotonic() < deadline:
            pass


class Nginx(Server):
    """nginx as its package configures it: HTTP/1.0 to what is behind, and bodies up to 1 MB."""

    name = "nginx"

    def __init__(self, folder: Path, target_port: int, **chosen: str) -> None:
        """`line` is the longest request line, `version` what it speaks to the target; `more` are
        further directives."""
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / "nginx.conf"
        facts = {"line": "16k", "version": "1.0", "more": ""} | chosen
        facts |= {"listen": f"{HOST}:{self.port}", "target": f"{HOST}:{target_port}"}
        configuration.write_text(_CONFIGURATION.format(folder=folder, **facts))
        command = [str(NGINX), "-e", "stderr", "-c", str(configuration), "-p", str(folder)]
        super().__init__(command, folder)

    def is_ready(self) -> bool:
        """Whether it listens."""
        try:
            socket.create_connection((HOST, self.port), 1).close()
        except OSError:
            return False
        return True

    @staticmethod
    def works() -> bool:
        """Whether this machine has one that starts."""
        tried = subprocess.run([NGINX, "-v"], capture_output=True) if NGINX else None
        return tried is not None and tried.returncode == 0


_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    large_client_header_buffers 4 {line};
    {more}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://{target};
            proxy_http_version {version};
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""
