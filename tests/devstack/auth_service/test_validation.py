"""`POST /api/v1/keys/validate`, asked over HTTP."""

import sqlite3
import time
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient

from devstack.auth_service.keys import Grant, KeyStore
from tests.devstack.auth_service.running import WAIT_LIMIT, Service

ANN = Grant("ann")
TOMORROW = int(time.time()) + 86_400


def test_a_valid_key_is_answered_with_all_its_fields(service: Service, keys: KeyStore) -> None:
    grant = Grant(
        "ann",
        "Ann Lee",
        "ann@example.org",
        ("mlflow:read", "workspace:team-a"),
        250,
        True,
        (),
        4102444799,
    )
    secret, key = keys.create(grant, test=True)
    answer = service.ask(secret)
    assert answer.status_code == 200
    assert answer.json() == {
        "valid": True,
        "user_id": "ann",
        "user": {"id": "ann", "name": "Ann Lee"},
        "email": "ann@example.org",
        "key_id": key.key_id,
        "service_id": "platform",
        "scopes": ["mlflow:read", "workspace:team-a"],
        "workspaces": ["team-a"],
        "rate_limit_per_hour": 250,
        "is_admin": True,
        "roles": ["admin"],
        "expires_at": "2099-12-31T23:59:59Z",
    }


def test_what_is_not_known_is_absent_and_no_limit_is_null(service: Service, keys: KeyStore) -> None:
    secret, _ = keys.create(Grant("bob", rate_limit_per_hour=None), test=True)
    answer = service.ask(secret, service_id="elsewhere").json()
    assert "email" not in answer
    assert answer["user"] == {"id": "bob"}
    assert answer["rate_limit_per_hour"] is None
    assert answer["expires_at"] is None
    assert answer["service_id"] == "elsewhere"
    assert (answer["is_admin"], answer["roles"]) == (False, [])


def assert_invalid(answer: requests.Response, message: str) -> None:
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json() == {"valid": False, "error": "INVALID_KEY", "message": message}


def test_an_unknown_key_is_invalid(service: Service) -> None:
    assert_invalid(service.ask("hk_test_unknown"), "This key is unknown.")


def test_a_key_is_invalid_from_its_revocation_on(service: Service, keys: KeyStore) -> None:
    secret, key = keys.create(ANN, test=True)
    assert service.ask(secret).status_code == 200
    keys.revoke(key.key_id)
    assert_invalid(service.ask(secret), "This key is revoked.")


def test_an_expired_key_is_invalid(service: Service, keys: KeyStore) -> None:
    secret, _ = keys.create(Grant("ann", expires_at=int(time.time()) - 1), test=True)
    assert_invalid(service.ask(secret), "This key is expired.")


def test_a_key_is_valid_until_it_expires(service: Service, keys: KeyStore) -> None:
    secret, _ = keys.create(Grant("ann", expires_at=TOMORROW), test=True)
    assert service.ask(secret).status_code == 200


@pytest.mark.parametrize("authorization", [None, "Bearer", "Basic YW5uOmhrX3Rlc3Q=", "hk_test_1"])
def test_no_bearer_token_is_invalid(service: Service, authorization: str | None) -> None:
    answer = service.session.post(
        f"{service.url}/api/v1/keys/validate",
        json={"service_id": "platform", "client_ip": "203.0.113.7"},
        headers={"Authorization": authorization} if authorization else {},
        timeout=WAIT_LIMIT,
    )
    assert_invalid(answer, "Send the key as Authorization: Bearer <key>.")


@pytest.mark.parametrize(
    ("client_ip", "status"),
    [
        ("203.0.113.7", 200),
        ("::ffff:203.0.113.7", 200),
        ("2001:db8::7", 200),
        ("198.51.100.7", 403),
        ("::ffff:198.51.100.7", 403),
        ("2001:db9::7", 403),
        (None, 403),
    ],
)
def test_a_key_is_bound_to_its_networks(
    service: Service, keys: KeyStore, client_ip: str | None, status: int
) -> None:
    networks = (ip_network("203.0.113.0/24"), ip_network("2001:db8::/32"))
    secret, _ = keys.create(Grant("ann", allowed_networks=networks), test=True)
    answer = service.ask(secret, client_ip=client_ip)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"] == "ADDRESS_NOT_ALLOWED"
        assert answer.json()["valid"] is False


def test_a_key_for_everywhere_needs_no_address(service: Service, keys: KeyStore) -> None:
    secret, _ = keys.create(ANN, test=True)
    assert service.ask(secret, client_ip=None).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"service_id=platform",
        b'{"service_id": "platform"',
        b"null",
        b'["platform"]',
        b"{}",
        b'{"service_id": ""}',
        b'{"service_id": 1}',
        b'{"service_id": "platform", "client_ip": "somewhere"}',
        b'{"service_id": "platform", "client_ip": "203.0.113.0/24"}',
        b'{"service_id": "platform", "client_ip": 3405803783}',
    ],
)
def test_a_malformed_body_is_a_bad_request(service: Service, keys: KeyStore, body: bytes) -> None:
    secret, _ = keys.create(ANN, test=True)
    answer = service.session.post(
        f"{service.url}/api/v1/keys/validate",
        data=body,
        headers={"Authorization": f"Bearer {secret}"},
        timeout=WAIT_LIMIT,
    )
    assert answer.status_code == 400
    assert answer.json()["error"] == "BAD_REQUEST"


@pytest.mark.parametrize(
    ("method", "path", "size", "status", "code"),
    [
        ("GET", "/nowhere", 0, 404, "NOT_FOUND"),
        ("GET", "/api/v1/keys/validate", 0, 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/api/v1/keys/validate", 20_000, 413, "REQUEST_ENTITY_TOO_LARGE"),
    ],
)
def test_every_error_is_json(
    service: Service, method: str, path: str, size: int, status: int, code: str
) -> None:
    answer = service.session.request(
        method, service.url + path, data=b"x" * size, timeout=WAIT_LIMIT
    )
    assert answer.status_code == status
    assert answer.json()["error"] == code


def test_a_writer_that_does_not_end_holds_nobody_up(service: Service, keys: KeyStore) -> None:
    secret, _ = keys.create(ANN, test=True)
    with closing(sqlite3.connect(service.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        answer = service.ask(secret)
        took = time.monotonic() - began
    assert answer.status_code == 200
    assert took < 2.0  # waiting for the lock would take 5 s


def test_a_broken_database_says_nothing_about_the_key(
    database: Path, store: KeyStore, client: FlaskClient
) -> None:
    secret, _ = store.create(ANN, test=True)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("DROP TABLE keys")
    question: dict[str, Any] = {"service_id": "platform", "client_ip": "203.0.113.7"}
    headers = {"Authorization": f"Bearer {secret}"}
    answer = client.post("/api/v1/keys/validate", json=question, headers=headers)
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["error"] == "STORE_UNAVAILABLE"
