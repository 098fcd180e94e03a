"""What a health answer must look like, as pure functions: shape, verdict, and no secrets in it."""

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
    """Where a health answer is not of the agreed form; empty if it is.

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
    latency = check.get("latency_ms")
    if latency is not None and (isinstance(latency, bool) or not isinstance(latency, int | float)):
        found.append("latency_ms is no number")
    message = check.get("message")
    return found if message is None or isinstance(message, str) else [*found, "message is no text"]


def bad_checks(document: dict[str, Any]) -> str:
    """What is not well, with its messages, as one line; "" if all is. /ready lists `missing`."""
    said: dict[str, list[str]] = {}  # names by message: one cause often fails several checks
    for name, check in (document.get("checks") or {}).items():
        if isinstance(check, dict) and check.get("status") != "healthy":
            message = str(check.get("message") or check.get("status")).rstrip(".")
            said.setdefault(message, []).append(name)
    found = [str(part).rstrip(".") for part in document.get("missing") or []]
    found += [f"{', '.join(names)}: {message}" for message, names in said.items()]
    return "; ".join(found)


def verdict(document: dict[str, Any]) -> tuple[str, str]:
    """What must not change from one quick call to the next: statuses and messages, no times."""
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
