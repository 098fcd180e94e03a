"""What a health response must look like, as pure functions: shape, faults, and no secrets in it."""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

STATUSES = ("healthy", "degraded", "unhealthy")
MLFLOW_CHECKS = ("connectivity", "experiments_api", "models_api", "artifacts_api")

# What tells a stranger where things are inside. Host:port needs four digits, or times would match.
INTERNAL = re.compile(
    r"""(?:https?|rediss?|unix|redis\+\w+)://[^\s"'<>]+
      | \b[\w-]+(?:\.[\w-]+)*:\d{4,5}\b
      | \b(?:(?:10|127)\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}\b
      | \b[\w-]+(?:\.[\w-]+)*\.(?:local|internal)\b
    """,
    re.VERBOSE,
)


def complaints(document: dict[str, Any], required: Iterable[str] = ()) -> list[str]:
    """Where a health response is not of the agreed form; empty if it is.

    Args:
        required: names that `checks` must hold.
    """
    found = [] if document.get("status") in STATUSES else ["status is none of the three words"]
    found += [] if isinstance(document.get("version"), str) else ["version is no text"]
    checks = document.get("checks", {})
    if not isinstance(checks, dict):
        return [*found, "checks is no object"]
    found += [f"checks lacks {name}" for name in required if name not in checks]
    for name, check in checks.items():
        found += [f"checks.{name}: {complaint}" for complaint in _about(check)]
    return found


def _about(check: Any) -> list[str]:
    if not isinstance(check, dict):
        return ["no object"]
    found = [] if isinstance(check.get("status"), str) else ["status is no text"]
    latency = check.get("latency_ms", 0)
    if isinstance(latency, bool) or not isinstance(latency, int | float | None):
        found.append("latency_ms is no number")
    if not isinstance(check.get("message"), str | None):
        found.append("message is no text")
    return found


def bad_checks(document: dict[str, Any], *names: str) -> str:
    """What is not well, with its messages, as one line; "" if all is. /ready lists `missing`.

    Args:
        names: the checks to look at; all if there are none.
    """
    messages: dict[str, list[str]] = {}  # names by message: one cause often fails several checks
    for name, check in (document.get("checks") or {}).items():
        is_bad = isinstance(check, dict) and check.get("status") != "healthy"
        if is_bad and (not names or name in names):
            message = str(check.get("message") or check.get("status")).rstrip(".")
            messages.setdefault(message, []).append(name)
    found = [str(part).rstrip(".") for part in document.get("missing") or []]
    found += [f"{', '.join(checks)}: {message}" for message, checks in messages.items()]
    return "; ".join(found)


def verdict(document: dict[str, Any]) -> tuple[str, str]:
    """What must not change between two quick calls: statuses and messages, no times."""
    return str(document.get("status")), bad_checks(document)


def internal_addresses(text: str, root: str) -> list[str]:
    """Addresses in a text that only an insider should know.

    Args:
        root: the deployment's own address, such as "https://host:8443"; that is no secret.
    """
    netloc = urlsplit(root).netloc
    own = {netloc, netloc.rpartition(":")[0]}
    hits = set(INTERNAL.findall(text))
    return sorted(hit for hit in hits if hit not in own and not hit.startswith(root))
