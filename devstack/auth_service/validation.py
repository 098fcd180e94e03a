"""`POST /api/v1/keys/validate`: is this key valid, from this address, and whose is it?"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from flask import Blueprint, Request, request

from devstack.auth_service.errors import AddressNotAllowed, InvalidKey, MalformedRequest
from devstack.auth_service.grant import Address
from devstack.auth_service.keys import Key, KeyStore
from devstack.auth_service.times import iso

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """What the proxy asks beside the key: for which service, from which client (None: unknown)."""

    service_id: str
    client_ip: Address | None


def routes(store: KeyStore) -> Blueprint:
    """The validation route over `store`."""
    blueprint = Blueprint("validation", __name__)

    @blueprint.post("/api/v1/keys/validate")
    def validate() -> dict[str, Any]:
        question = read(request)
        key = identify(request, store)
        judge(key, question)
        store.touch(key)
        log.info("valid key_id=%s service=%r", key.key_id, question.service_id)
        return describe(key, question)

    return blueprint


def read(http: Request) -> Question:
    """The question in the JSON body; raises MalformedRequest."""
    body = http.get_json(force=True, silent=True)
    if not isinstance(body, dict):
        raise MalformedRequest("The body must be a JSON object with service_id and client_ip.")
    return Question(_service_id(body), _client_ip(body))


def _service_id(body: Mapping[str, Any]) -> str:
    service_id = body.get("service_id")
    if not isinstance(service_id, str) or not service_id:
        raise MalformedRequest("service_id must be a non-empty string.")
    return service_id


def _client_ip(body: Mapping[str, Any]) -> Address | None:
    text = body.get("client_ip")
    if text is None:
        return None
    try:
        return ip_address(text if isinstance(text, str) else "")  # an int would be read as one
    except ValueError:
        raise MalformedRequest("client_ip must be an IPv4 or IPv6 address.") from None


def identify(http: Request, store: KeyStore) -> Key:
    """The stored key that the Bearer token names; raises InvalidKey."""
    authorization = http.authorization
    if authorization is None or authorization.type != "bearer" or not authorization.token:
        log.info("refused: no bearer token")
        raise InvalidKey("Send the key as Authorization: Bearer <key>.")
    key = store.find(authorization.token)
    if key is None:
        log.info("refused: unknown key")
        raise InvalidKey("This key is unknown.")
    return key


def judge(key: Key, question: Question) -> None:
    """Pass an active key that is used from where it may be; raises the refusal of any other."""
    if (state := key.state(time.time())) != "active":
        log.info("refused: %s key_id=%s", state, key.key_id)
        raise InvalidKey(f"This key is {state}.")
    if not key.grant.admits(question.client_ip):
        log.info("refused: address %s key_id=%s", question.client_ip, key.key_id)
        raise AddressNotAllowed("This key may not be used from this address.")


def describe(key: Key, question: Question) -> dict[str, Any]:
    """The positive answer. What is not known of the user (name, email) is absent."""
    grant = key.grant
    answer: dict[str, Any] = {
        "valid": True,
        "user_id": grant.user_id,
        "user": {"id": grant.user_id},
        "key_id": key.key_id,
        "service_id": question.service_id,
        "scopes": list(grant.scopes),
        "rate_limit_per_hour": grant.rate_limit_per_hour,
        "is_admin": grant.is_admin,
        "roles": ["admin"] if grant.is_admin else [],
        "expires_at": iso(grant.expires_at),
    }
    if grant.user_name:
        answer["user"]["name"] = grant.user_name
    if grant.email:
        answer["email"] = grant.email
    return answer
