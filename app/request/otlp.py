"""Errors on `/v1/traces` in the format that OTLP exporters read: google.rpc.Status.

The format follows the request's Content-Type (https://opentelemetry.io/docs/specs/otlp/#failures).
MLflow's own SDK sends protobuf there too, but reads only MLflow's JSON, so it gets that.
"""

import orjson
from flask import Response

from app.request.inbound import PREFIXES

PATHS = frozenset(f"{prefix}/v1/traces" for prefix in PREFIXES)

#: The User-Agent prefix of MLflow's own client.
MLFLOWS = "mlflow-python-client"

#: The longest Retry-After, in seconds: exporters give up when it exceeds what is left of 10 s.
LONGEST_WAIT = 2

#: google.rpc.Code by HTTP status (googleapis, google/rpc/code.proto); INTERNAL for any other.
CODES = {
    400: 3,  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 5,  # NOT_FOUND
    405: 12,  # UNIMPLEMENTED
    408: 10,  # ABORTED
    413: 3,
    429: 8,  # RESOURCE_EXHAUSTED
    502: 14,  # UNAVAILABLE
    503: 14,
    504: 4,  # DEADLINE_EXCEEDED
}
INTERNAL = 13


def as_exporters_read_it(response: Response, path: str, content_type: str, agent: str) -> Response:
    """Convert an error to OTLP's format if the request was to the trace route.

    `response` is a JSON error of the proxy; the other arguments describe the request.
    """
    if path not in PATHS:
        return response
    if response.status_code == 503:
        wait = int(response.headers.get("Retry-After", LONGEST_WAIT))
        response.headers["Retry-After"] = str(min(wait, LONGEST_WAIT))
    if agent.startswith(MLFLOWS):
        return response
    error = orjson.loads(response.get_data())
    code = CODES.get(response.status_code, INTERNAL)
    sent = content_type.partition(";")[0].strip().lower()
    if sent == "application/x-protobuf":
        response.set_data(_status(code, error["message"].encode()))
        response.content_type = sent
    elif sent == "application/json":
        response.set_data(orjson.dumps({"code": code} | error))
    return response


def _status(code: int, message: bytes) -> bytes:
    """Encode a google.rpc.Status as protobuf: `int32 code = 1; string message = 2;`."""
    return b"\x08" + _varint(code) + b"\x12" + _varint(len(message)) + message


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
