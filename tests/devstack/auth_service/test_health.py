"""`GET /health`."""

import sqlite3
from contextlib import closing
from pathlib import Path

from flask.testing import FlaskClient

from tests.devstack.auth_service.running import WAIT_LIMIT, Service


def test_it_is_healthy(service: Service) -> None:
    response = service.session.get(f"{service.url}/health", timeout=WAIT_LIMIT)
    assert response.status_code == 200
    assert response.json() == {"status": "healthy"}


def test_it_is_not_without_its_table(client: FlaskClient, database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("DROP TABLE keys")
    response = client.get("/health")
    assert response.status_code == 503
    assert response.json is not None
    assert response.json["error"] == "STORE_UNAVAILABLE"
