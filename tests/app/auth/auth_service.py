"""Responses of the auth service, for the tests of its client."""

import json
from typing import Any

from app.request.principal import Principal
from tests.upstreams import Answer, send, sized

IP = "203.0.113.7"
YES: dict[str, Any] = {"user_id": "ann", "key_id": "key-1", "scopes": ["read"]}

#: Seconds; the first for whoever gets an answer, the second for whoever waits for none.
PATIENT, TIMEOUT = 10.0, 0.2


def says(content: Any, status: int = 200, *fields: tuple[str, str]) -> Answer:
    """An answer in JSON, or of bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answer(send(sized(body, status, ("Content-Type", "application/json"), *fields)))


ANN = Principal("ann", "key-1", "platform", frozenset(("read",)), None, False)
