"""/metrics in Prometheus' text format, summed over the workers of this instance."""

import prometheus_client
from flask import Blueprint, Response
from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector


def blueprint() -> Blueprint:
    """The one route. The load balancer does not forward it."""
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics")
    def metrics() -> Response:
        text = generate_latest(registry())
        return Response(text, content_type=prometheus_client.CONTENT_TYPE_LATEST)

    return routes


def registry() -> CollectorRegistry:
    """All workers' files where there are several processes, else this process's own values."""
    if values.ValueClass is values.MutexValue:
        return prometheus_client.REGISTRY
    of_all = CollectorRegistry()
    MultiProcessCollector(of_all)  # type: ignore[no-untyped-call]
    return of_all
