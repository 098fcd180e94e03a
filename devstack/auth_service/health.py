"""`GET /health`: 200 while keys can be looked up, 503 otherwise."""

from typing import Any

from flask import Blueprint

from devstack.auth_service import revocation
from devstack.auth_service.errors import StoreUnavailable
from devstack.auth_service.keys import KeyStore


def routes(store: KeyStore, redis_url: str | None) -> Blueprint:
    """The health route over `store` and, if there is one, Redis."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/health")
    def health() -> tuple[dict[str, Any], int]:
        checks = {"database": _database(store), "redis": _redis(redis_url)}
        status = _overall(**checks)
        answer = {"status": status, "checks": {name: {"status": s} for name, s in checks.items()}}
        return answer, 503 if status == "unhealthy" else 200

    return blueprint


def _database(store: KeyStore) -> str:
    try:
        store.check()
    except StoreUnavailable:
        return "unhealthy"
    return "healthy"


def _redis(redis_url: str | None) -> str:
    if redis_url is None:
        return "not configured"
    return "healthy" if revocation.reachable(redis_url) else "unhealthy"


def _overall(database: str, redis: str) -> str:
    """Validation needs no Redis: without it, only revocations are announced to nobody."""
    if database == "unhealthy":
        return "unhealthy"
    return "degraded" if redis == "unhealthy" else "healthy"
