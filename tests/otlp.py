"""A collector: takes OpenTelemetry's spans over HTTP on a real socket, as the OTLP exporter sends
them."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """What came so far: `raw`, the requests' bodies; a context manager."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.raw))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *why: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def spans(self) -> list[Span]:
        """Every span, in the order in which they came."""
        scopes = [scope for resource in self._resources() for scope in resource.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    @property
    def resources(self) -> list[Resource]:
        """Who sent them."""
        return [resource.resource for resource in self._resources()]

    def _resources(self) -> list:  # type: ignore[type-arg]
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.raw]
        return [spans for request in requests for spans in request.resource_spans]


def attributes(span: Span | Resource) -> dict[str, object]:
    """The attributes, with their values as Python has them."""
    return {
        pair.key: getattr(pair.value, str(pair.value.WhichOneof("value")))
        for pair in span.attributes
    }


def _handler(raw: list[bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5  # a worker that ended may leave its connection half open

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            gzipped = self.headers.get("Content-Encoding") == "gzip"
            raw.append(gzip.decompress(body) if gzipped else body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler
