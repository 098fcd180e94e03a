"""The HTTP service: `POST /api/v1/keys/validate` and `/lookup`, `GET /health`, under gunicorn."""

import hmac
import logging
import re
import signal
import time
from ipaddress import ip_address
from typing import Any, NoReturn

from flask import Flask, Response, abort, jsonify, request
from gunicorn.app.base import BaseApplication
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from devstack.auth_service.keys import PREFIXES, Address, Key, KeyStore, StoreUnavailable, iso

MAX_BODY_BYTES = 16 * 1024  # a validation request holds two short strings

#: Error codes by status; other statuses take werkzeug's name, such as NOT_FOUND.
CODES = {401: "INVALID_KEY", 403: "ADDRESS_NOT_ALLOWED", 503: "STORE_UNAVAILABLE"}

#: Sets all that gunicorn could read from the environment or a file: both are often meant for the
#: proxy's gunicorn. Started this way, it reads no gunicorn.conf.py.
GUNICORN = {
    "workers": 1,
    "worker_class": "gthread",
    "threads": 32,  # a client that stalls in mid-request holds one without a limit
    "preload_app": True,
    "http_parser": "python",
    "keepalive": 75,  # seconds; longer than a client keeps an idle connection
    "timeout": 30,  # seconds
    "graceful_timeout": 5,  # seconds; it ends at once, unless the machine is busy
    "control_socket_disable": True,  # by default there is one in the home folder
    "accesslog": None,
}

log = logging.getLogger(__name__)
_formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
_key = re.compile(f"({'|'.join(PREFIXES)})[A-Za-z0-9]+")


def create_app(store: KeyStore, lookup_token: str = "") -> Flask:
    """Build the WSGI application. Without a `lookup_token` it looks up no keys: 404."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    @app.post("/api/v1/keys/validate")
    def validate() -> dict[str, Any]:
        service_id, client_ip = _question(request.get_json(force=True, silent=True))
        key = _identify(store)
        _judge(key, client_ip)
        log.info("valid key_id=%s service=%r", key.key_id, service_id)
        return _description(key) | {"service_id": service_id}

    @app.post("/api/v1/keys/lookup")
    def look_up() -> dict[str, Any]:
        _require(lookup_token)
        body: Any = request.get_json(force=True, silent=True)
        service_id, client_ip = _question(body)
        key = store.find_by_id(str(body.get("key_id")))
        is_valid = key and key.state(time.time()) == "active" and key.grant.admits(client_ip)
        log.info("look-up of key_id=%s: %s", body.get("key_id"), "valid" if is_valid else "ended")
        if key is None or not is_valid:
            return {"valid": False}
        return _description(key) | {"service_id": service_id}

    @app.get("/health")
    def health() -> dict[str, Any]:
        store.check()
        return {"status": "healthy"}

    @app.errorhandler(StoreUnavailable)
    def unavailable(error: StoreUnavailable) -> Response:
        return _as_json(ServiceUnavailable(str(error)))

    app.register_error_handler(HTTPException, _as_json)
    return app


# --- validation ------------------------------------------------------------------------------


def _question(body: Any) -> tuple[str, Address | None]:
    """(service_id, client_ip) of a JSON body; the address is None if it is unknown."""
    if not isinstance(body, dict):
        abort(400, "The body must be a JSON object with service_id and client_ip.")
    service_id, client_ip = body.get("service_id"), body.get("client_ip")
    if not isinstance(service_id, str) or not service_id:
        abort(400, "service_id must be a non-empty string.")
    try:
        address = None if client_ip is None else ip_address(str(client_ip))  # str: it takes an int
    except ValueError:
        abort(400, "client_ip must be an IPv4 or IPv6 address.")
    return service_id, address


def _require(lookup_token: str) -> None:
    """Refuse whoever does not show the token: 401."""
    if not lookup_token:
        abort(404)
    shown = request.authorization and request.authorization.token
    if not hmac.compare_digest((shown or "").encode(), lookup_token.encode()):
        _refuse(401, "Send the look-up token as Authorization: Bearer <token>.", "look-up token")


def _identify(store: KeyStore) -> Key:
    """Return the key of the request's Bearer token."""
    authorization = request.authorization
    if authorization is None or authorization.type != "bearer" or not authorization.token:
        _refuse(401, "Send the key as Authorization: Bearer <key>.", "no bearer token")
    key = store.find(authorization.token)
    if key is None:
        _refuse(401, "This key is unknown.", "unknown key")
    return key


def _judge(key: Key, client_ip: Address | None) -> None:
    """Refuse a key that is not active, or not allowed from the client's address."""
    if (state := key.state(time.time())) != "active":
        _refuse(401, f"This key is {state}.", f"{state} key_id={key.key_id}")
    if not key.grant.admits(client_ip):
        why = f"address {client_ip} key_id={key.key_id}"
        _refuse(403, "This key may not be used from this address.", why)


def _refuse(status: int, message: str, why: str) -> NoReturn:
    """Abort. `message` goes to the caller, `why` to the log."""
    log.info("refused: %s", why)
    abort(status, message)


def _description(key: Key) -> dict[str, Any]:
    """Return the fields of a valid key. An unknown name or email is absent."""
    grant = key.grant
    user = {"id": grant.user_id} | ({"name": grant.user_name} if grant.user_name else {})
    return {
        "valid": True,
        "user_id": grant.user_id,
        "user": user,
        **({"email": grant.email} if grant.email else {}),
        "key_id": key.key_id,
        "scopes": list(grant.scopes),
        "workspaces": list(grant.workspaces),
        "rate_limit_per_hour": grant.rate_limit_per_hour,
        "is_admin": grant.is_admin,
        "roles": ["admin"] if grant.is_admin else [],
        "expires_at": iso(grant.expires_at),
    }


def _as_json(error: HTTPException) -> Response:
    """Render every error as JSON, Flask's own (404, 405, 413, 500) included, without a key."""
    status = error.code or 500
    code = CODES.get(status) or error.name.upper().replace(" ", "_")
    response = jsonify({"valid": False, "error": code, "message": error.description or error.name})
    response.status_code = status
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"  # required: RFC 9110, 11.6.1
    response.allow.update(getattr(error, "valid_methods", None) or ())
    return response


# --- gunicorn and the log --------------------------------------------------------------------


class Gunicorn(BaseApplication):  # type: ignore[misc]
    """gunicorn with one quiet worker that stops at once."""

    def __init__(self, app: Flask, options: dict[str, Any]) -> None:
        self._app = app
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        """Set the options; called by gunicorn."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Return the WSGI application; called by gunicorn."""
        return self._app


def serve(app: Flask, bind: str, log_level: str) -> None:
    """Serve on `bind` (host:port or unix:path) until a signal comes. Log to stderr."""
    configure_logs(log_level)
    options = {"bind": bind, "loglevel": log_level, "when_ready": _ready}
    Gunicorn(app, GUNICORN | options).run()


def _ready(server: Any) -> None:
    """Print the address, which a bind to port 0 leaves open, and stop at once on SIGTERM.

    gunicorn's graceful stop would wait for kept-alive connections to be used once more.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: server.signal(signal.SIGINT, frame))
    print(f"The auth service listens at {server.LISTENERS[0]}", flush=True)


def configure_logs(level: str) -> None:
    """Write this package's lines from `level` on to stderr; redact keys in them and gunicorn's.

    gunicorn quotes a header line that it cannot parse, and the path of a request that failed.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter)
    handler.addFilter(_without_keys)
    log.setLevel(level.upper())
    log.addHandler(handler)
    logging.getLogger("gunicorn.error").addFilter(_without_keys)


def _without_keys(record: logging.LogRecord) -> bool:
    """Hide all of a key but its prefix, in the message and the traceback."""
    record.msg, record.args = _key.sub(r"\1[redacted]", record.getMessage()), ()
    if record.exc_info:
        traceback = _formatter.formatException(record.exc_info)
        record.exc_text = _key.sub(r"\1[redacted]", traceback)
    return True
