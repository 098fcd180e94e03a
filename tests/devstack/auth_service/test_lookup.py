"""`POST /api/v1/keys/lookup`: what a key is granted now, by its id, for whoever has the token."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from devstack.auth_service.keys import Grant, KeyStore
from devstack.auth_service.service import create_app

ANN = Grant("ann", scopes=("read",), rate_limit_per_hour=7)


@pytest.fixture
def looking_up(store: KeyStore) -> FlaskClient:
    """A client of a service with look-ups."""
    return create_app(store, "a-token").test_client()


def look_up(client: FlaskClient, token: str = "Bearer a-token", **question: Any) -> TestResponse:
    body = {"service_id": "platform", "client_ip": "203.0.113.7"} | question
    headers = {"Authorization": token} if token else {}
    return client.post("/api/v1/keys/lookup", json=body, headers=headers)


def test_it_answers_as_a_validation_does(looking_up: FlaskClient, store: KeyStore) -> None:
    secret, key = store.create(ANN, test=True)
    question = {"service_id": "platform", "client_ip": "203.0.113.7"}
    headers = {"Authorization": f"Bearer {secret}"}
    validated = looking_up.post("/api/v1/keys/validate", json=question, headers=headers)
    found = look_up(looking_up, key_id=key.key_id)
    assert (found.status_code, found.json) == (200, validated.json)


def test_it_answers_what_is_granted_now(looking_up: FlaskClient, store: KeyStore) -> None:
    _, key = store.create(ANN, test=True)
    store.change(key.key_id, replace(ANN, scopes=("write",), rate_limit_per_hour=None))
    found: Any = look_up(looking_up, key_id=key.key_id).json
    assert (found["scopes"], found["rate_limit_per_hour"]) == (["write"], None)


def test_a_key_that_may_not_be_used_is_said_to_have_ended(
    looking_up: FlaskClient, store: KeyStore
) -> None:
    elsewhere = replace(ANN, allowed_networks=(ip_network("198.51.100.0/24"),))
    ids = [store.create(grant, test=True)[1].key_id for grant in (ANN, elsewhere)]
    store.revoke(ids[0])
    for key_id in (*ids, store.create(replace(ANN, expires_at=1))[1].key_id, "unknown", None):
        found = look_up(looking_up, key_id=key_id)
        assert (found.status_code, found.json) == (200, {"valid": False})


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer another", "Bearer ü", "Basic YTpi"])
def test_a_stranger_learns_nothing(looking_up: FlaskClient, store: KeyStore, token: str) -> None:
    _, key = store.create(ANN, test=True)
    for key_id in (key.key_id, "unknown"):
        assert look_up(looking_up, token, key_id=key_id).status_code == 401


def test_without_a_token_there_is_no_look_up(client: FlaskClient, store: KeyStore) -> None:
    _, key = store.create(ANN, test=True)
    for token in ("", "Bearer ", "Bearer a-token"):
        assert look_up(client, token, key_id=key.key_id).status_code == 404


def test_a_malformed_question_is_a_bad_request(looking_up: FlaskClient) -> None:
    assert look_up(looking_up, service_id=1).status_code == 400
    assert look_up(looking_up, client_ip="somewhere").status_code == 400
