"""MLflow's `authorization_function` behind the Hokusai proxy: a user of a key is one of MLflow's.

Copy this file into a folder on MLflow's PYTHONPATH. It needs nothing but MLflow. Name it in
basic_auth.ini, and give MLflow the proxy's MLFLOW_IDENTITY_SECRET (while it changes: the old and
the new one, with a comma):

    authorization_function = hokusai_identity:authenticate

A request that the proxy has signed acts as the user in X-Hokusai-User-Id, whom MLflow gets at the
first request, without a right but `default_permission`. A request without a signature needs a user
name and password of MLflow's, as before.

The signature covers time, method, path, query and user, not the body. Whoever reads one can use it
until MAX_AGE for that path. MLflow's gateway passes it on to the provider of the model.
"""

import hmac
import logging
import os
import secrets
import time
from urllib.parse import unquote

from flask import Response, request
from mlflow.exceptions import MlflowException
from mlflow.gateway.constants import MLFLOW_GATEWAY_AUTH_HEADER
from mlflow.server import auth
from werkzeug.datastructures import Authorization

#: Seconds between the signature and MLflow's look at it. MLflow looks after the whole body.
MAX_AGE = 300

#: How often a path is decoded, at most. MLflow's routes show it to this function decoded once or
#: twice, so it is decoded until nothing changes; the proxy does the same before it signs.
DECODINGS = 16

VERSION = "hokusai-1"
SECRETS = [
    each.encode() for each in os.environ.get("MLFLOW_IDENTITY_SECRET", "").split(",") if each
]
FOUND = "hokusai.identity"

log = logging.getLogger("mlflow.hokusai_identity")


class Refused(Exception):
    """Why a signed request is not believed."""


def authenticate() -> Authorization | Response:
    """Return who calls, or a 401. MLflow asks several times for one request, also at its end, when
    the signature may be too old: the first answer counts."""
    found: Authorization | Response | None = request.environ.get(FOUND)
    if found:
        return found
    try:
        found = _of_signature() if "X-Hokusai-Signature" in request.headers else _of_password()
    except Refused as why:
        return _refusal(f"MLflow refuses the signature of the Hokusai proxy: {why}")
    if isinstance(found, Authorization):
        request.environ[FOUND] = request.authorization = found  # the latter for MLflow's jobs
    return found


def _of_signature() -> Authorization:
    moment, _, digest = request.headers["X-Hokusai-Signature"].partition(".")
    user = request.headers.get("X-Hokusai-User-Id", "")
    signed = (VERSION, moment, request.method, _decoded(request.path), _query(), user)
    message = "\n".join(signed).encode()
    if not SECRETS:
        raise Refused("MLflow has no MLFLOW_IDENTITY_SECRET.")
    if not any(_is_of(secret, message, digest) for secret in SECRETS):
        raise Refused("it is of another request or another MLFLOW_IDENTITY_SECRET.")
    age = round(time.time()) - int(moment)
    if abs(age) > MAX_AGE:
        raise Refused(f"its age is {age} s, over {MAX_AGE} s. Compare the clocks.")
    return Authorization("basic", {"username": _user(unquote(user))})


def _is_of(secret: bytes, message: bytes, digest: str) -> bool:
    expected = hmac.digest(secret, message, "sha256").hex()
    return hmac.compare_digest(expected.encode(), digest.encode())


def _decoded(path: str) -> str:
    for _ in range(DECODINGS):
        if (decoded := unquote(path)) == path:
            break
        path = decoded
    return path.translate({9: None, 10: None, 13: None})  # which MLflow's native routes lose


def _query() -> str:
    return str(request.environ.get("QUERY_STRING", ""))


def _user(name: str) -> str:
    """Return MLflow's name of the user; make one of that name if there is none."""
    if not name.isprintable() or not 0 < len(name) < 256:
        raise Refused("the user's id is no name that MLflow can keep.")
    try:
        known = auth.store.get_user(name).username
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        _create(name)
        return name
    if known != name:  # in a database that ignores case
        raise Refused(f"MLflow has a user {known!r}, and cannot tell {name!r} from that one.")
    return name


def _create(name: str) -> None:
    """Make a user without a password that anybody knows. Another worker may have been faster."""
    try:
        auth.store.create_user(name, secrets.token_urlsafe(32))
        log.info("made the MLflow user %r, known by the Hokusai proxy", name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _of_password() -> Authorization | Response:
    """Do what MLflow does without this file: also for its jobs, which call the gateway with a
    token of their own as the password."""
    if auth._strip_static_prefix(request.path).startswith("/gateway/"):
        if given := request.headers.get(MLFLOW_GATEWAY_AUTH_HEADER):
            request.authorization = Authorization.from_header(given)
        token = os.environ.get("_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN", "").encode()
        own = request.authorization
        if token and own and hmac.compare_digest((own.password or "").encode(), token):
            return own
    result = auth.authenticate_request_basic_auth()
    if isinstance(result, Response):
        log.warning(
            "refused: %s %r has neither a signature of the Hokusai proxy nor the right password",
            request.method,
            request.path,
        )
    return result


def _refusal(why: str) -> Response:
    user = request.headers.get("X-Hokusai-User-Id")
    log.warning("refused: %s %r of user %r: %s", request.method, request.path, user, why)
    response = auth.make_basic_auth_response()
    response.set_data(why)
    return response
