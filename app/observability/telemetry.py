"""OpenTelemetry traces: one span per request, from its head to the last byte of the response.

An extra (requirements/telemetry.in), imported only with OTEL_ENABLED. The SDK reads its own OTEL_*
variables: destination, sampling, service name.

The library's WSGI middleware reads host, query and user agent, which can contain a key. So it gets
a reduced request. The app gets the real one with the span's traceparent: MLflow's span becomes its
child, and the log has its trace id.
"""

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, g
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.observability.metrics import METHODS
from app.observability.record import Record, shown, without_keys
from app.request.inbound import raw_path
from config.version import VERSION

Environ = dict[str, Any]
Application = Callable[[Environ, Any], Iterable[bytes]]

SERVICE = "hokusai-mlflow-proxy"

#: The key of the real request in the reduced one.
REAL = "hokusai.environ"


def trace(app: Flask) -> None:
    """Trace each request of the app; spans are sent by OTLP over HTTP in the background."""
    provider = TracerProvider(resource=_resource())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    app.wsgi_app = traced(app.wsgi_app, provider)  # type: ignore[method-assign,assignment]


def traced(app: Application, provider: TracerProvider) -> Application:
    """Wrap the WSGI application with a span around each request."""
    middleware: Any = OpenTelemetryMiddleware(
        _with_real_request(app),
        response_hook=_describe,
        tracer_provider=provider,
        meter_provider=NoOpMeterProvider(),
    )

    return lambda environ, start_response: middleware(_presentable(environ), start_response)


def _presentable(environ: Environ) -> Environ:
    """The reduced request for the middleware; it contains no key."""
    method = environ["REQUEST_METHOD"]
    path = shown(raw_path(environ))
    presentable = {
        "REQUEST_METHOD": method if method in METHODS else "_OTHER",
        "PATH_INFO": path,
        "RAW_URI": path,
        "wsgi.url_scheme": environ["wsgi.url_scheme"],
        "SERVER_NAME": SERVICE,
        "SERVER_PROTOCOL": environ["SERVER_PROTOCOL"],
        REAL: environ,
    }
    for name in ("HTTP_TRACEPARENT", "HTTP_TRACESTATE"):
        if (value := environ.get(name)) and value == without_keys(value):
            presentable[name] = value
    return presentable


def _with_real_request(app: Application) -> Application:
    def inner(presentable: Environ, start_response: Any) -> Iterable[bytes]:
        environ = presentable[REAL]
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        environ.update({f"HTTP_{name.upper()}": value for name, value in carrier.items()})

        def begin(status: str, *rest: Any) -> Any:
            # The middleware requires a reason phrase; MLflow may send none.
            return start_response(status if " " in status else f"{status} ", *rest)

        return app(environ, begin)

    return inner


def _describe(span: Span, environ: Environ, status: str, headers: list[tuple[str, str]]) -> None:
    """Add name and attributes to the span when the response begins. Names must be few."""
    record: Record = g.record
    route = record.route.template if record.route is not None else None
    span.update_name(f"{environ['REQUEST_METHOD']} {route or record.kind}")
    known = {
        "http.route": route,
        "hokusai.operation": record.operation,
        "hokusai.kind": record.kind,
        "hokusai.outcome": record.outcome,
        "hokusai.request_id": record.request_id,
        "hokusai.user_id": record.principal.user_id if record.principal else None,
        "hokusai.key_id": record.principal.key_id if record.principal else None,
    }
    span.set_attributes({name: value for name, value in known.items() if value is not None})


def _resource() -> Resource:
    """The service's name and version; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override."""
    ours = Resource({"service.name": SERVICE, "service.version": VERSION})
    return ours.merge(OTELResourceDetector().detect())
