"""`GET /health`."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient

from tests.devstack.auth_service.running import PATIENCE, Service

MakeClient = Callable[..., FlaskClient]


def answer(status: str, database: str, redis: str) -> dict[str, Any]:
    checks = {"database": {"status": database}, "redis": {"status": redis}}
    return {"status": status, "checks": checks}


def test_it_is_healthy_without_redis(service: Service) -> None:
    response = service.session.get(f"{service.url}/health", timeout=PATIENCE)
    assert response.status_code == 200
    assert response.json() == answer("healthy", "healthy", "not configured")


def test_it_is_healthy_with_redis(client: MakeClient, own_redis: str) -> None:
    response = client(own_redis).get("/health")
    assert response.status_code == 200
    assert response.json == answer("healthy", "healthy", "healthy")


def test_it_serves_on_when_redis_is_away(client: MakeClient) -> None:
    response = client("redis://127.0.0.1:1").get("/health")
    assert response.status_code == 200
    assert response.json == answer("degraded", "healthy", "unhealthy")


def test_it_is_unhealthy_without_its_table(client: MakeClient, database: Path) -> None:
    asking = client()
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("DROP TABLE keys")
    response = asking.get("/health")
    assert response.status_code == 503
    assert response.json == answer("unhealthy", "unhealthy", "not configured")
