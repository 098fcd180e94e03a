"""The one place that turns an error into HTTP: always JSON, never a key in it."""

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException

from devstack.auth_service.errors import InvalidKey, ServiceError


def install(app: Flask) -> None:
    """Answer every error of `app` in JSON, Flask's own (404, 405, 413, 500) included."""
    app.register_error_handler(ServiceError, _refuse)
    app.register_error_handler(HTTPException, _translate)


def _refuse(error: ServiceError) -> Response:
    response = _answer(error.status, error.code, str(error))
    if isinstance(error, InvalidKey):
        response.headers["WWW-Authenticate"] = "Bearer"  # required with a 401: RFC 9110, 11.6.1
    return response


def _translate(error: HTTPException) -> Response:
    code = error.name.upper().replace(" ", "_")
    response = _answer(error.code or 500, code, error.description or error.name)
    if "Allow" in (headers := dict(error.get_headers())):
        response.headers["Allow"] = headers["Allow"]
    return response


def _answer(status: int, code: str, message: str) -> Response:
    response = jsonify({"valid": False, "error": code, "message": message})
    response.status_code = status
    return response
