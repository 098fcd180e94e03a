"""The settings of the local auth service: the one place here that reads the environment.

    AUTH_SERVICE_DATABASE   the SQLite file of the keys     .devstack/keys.db
    AUTH_SERVICE_BIND       host:port or unix:path          127.0.0.1:8001
    AUTH_SERVICE_LOG_LEVEL  debug, info, warning or error   warning
    REDIS_URL               where revocations are told      none

A command's option wins over its variable.
"""

import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_DATABASE = ".devstack/keys.db"
DEFAULT_BIND = "127.0.0.1:8001"
DEFAULT_LOG_LEVEL = "warning"


@dataclass(frozen=True)
class Settings:
    """Where things are. `redis_url` is None when there is no Redis to tell."""

    database: Path
    bind: str
    log_level: str
    redis_url: str | None


def load(
    database: str | None = None,
    bind: str | None = None,
    log_level: str | None = None,
    redis_url: str | None = None,
) -> Settings:
    """The settings: an argument that is not None wins over the environment, that over a default."""
    return Settings(
        database=Path(_pick(database, "AUTH_SERVICE_DATABASE", DEFAULT_DATABASE)),
        bind=_pick(bind, "AUTH_SERVICE_BIND", DEFAULT_BIND),
        log_level=_pick(log_level, "AUTH_SERVICE_LOG_LEVEL", DEFAULT_LOG_LEVEL).lower(),
        redis_url=_server(_pick(redis_url, "REDIS_URL", "")),
    )


def environment(settings: Settings) -> dict[str, str]:
    """The environment for a process that is to load these same settings.

    Without GUNICORN_CMD_ARGS, which is meant for the proxy's gunicorn and would win here.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "GUNICORN_CMD_ARGS"}
    return inherited | {
        "AUTH_SERVICE_DATABASE": str(settings.database),
        "AUTH_SERVICE_BIND": settings.bind,
        "AUTH_SERVICE_LOG_LEVEL": settings.log_level,
        "REDIS_URL": settings.redis_url or "",
    }


def _pick(argument: str | None, variable: str, default: str) -> str:
    return argument if argument is not None else os.environ.get(variable) or default


def _server(url: str) -> str | None:
    """None for no address, and for `memory://`, the proxy's way to say that there is no Redis."""
    return None if not url or url.startswith("memory:") else url
