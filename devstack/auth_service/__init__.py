"""The local auth service: answers whether an API key is valid, and whose it is.

It stands in for the real service of another team on a developer's machine and in the tests,
and speaks the same HTTP. It is not meant for production: see README.md beside this file.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

MAX_BODY_BYTES = 16 * 1024  # a validation request holds two short strings


def create_app(database: Path, redis_url: str | None) -> "Flask":
    """Build the WSGI application.

    `database` is the SQLite file of the keys; it is created when it does not exist.
    `redis_url` is where revocations are announced, None for nowhere; the application itself only
    reports in `/health` whether it is reachable.
    Raises StoreUnavailable when the database cannot be opened.
    """
    # Imported here, because this file runs before each command too: they need neither Flask nor
    # Redis, whose import takes most of a second.
    from flask import Flask

    from devstack.auth_service import health, responses, validation
    from devstack.auth_service.keys import KeyStore

    store = KeyStore(database)
    app = Flask(__name__)
    app.extensions["auth_service.keys"] = store  # for whoever has to close it
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.register_blueprint(validation.routes(store))
    app.register_blueprint(health.routes(store, redis_url))
    responses.install(app)
    return app
