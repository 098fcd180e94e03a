"""The settings as they came out, for human eyes: secrets hidden, oversights pointed at."""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from config.settings import Settings

#: Beginnings that only variables of ours have; a near miss of one of ours is a typing error.
CLOSE_ENOUGH = 0.85


def shown(settings: Settings) -> dict[str, str]:
    """Variable and value, in the order of the reference; secrets as "(set)", an address without
    what stands before its @ and behind its ?."""
    return {
        setting.metadata["variable"]: _shown(
            setting.metadata["variable"],
            getattr(settings, setting.name),
            setting.metadata["secret"],
        )
        for setting in fields(Settings)
    }


def _shown(variable: str, value: Any, secret: bool) -> str:
    if secret and variable.endswith("_URL"):
        scheme, _, rest = str(value).partition("://")
        hidden = "(hidden)@" if "@" in rest else ""
        return f"{scheme}://{hidden}{rest.rpartition('@')[2].partition('?')[0]}"
    if value in ("", None):
        return "(not set)"
    if secret:
        return "(set, hidden)"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def doubts(settings: Settings, environ: Mapping[str, str] | None = None) -> list[str]:
    """What can be used and is probably not meant: one sentence each, without values."""
    given = os.environ if environ is None else environ
    found = list(_misspelt(given))
    if settings.instances > 1 and not settings.auth_cache_secret:
        found.append(
            "INSTANCES is more than 1 and AUTH_CACHE_SECRET is not set: instances do not share "
            "what they know of keys."
        )
    if settings.redis_url.startswith("memory:"):
        found.append("REDIS_URL is memory://: limits and revocations end at this one process.")
    return found


def _misspelt(names: Iterable[str]) -> Iterable[str]:
    """Variables that are nearly ones of ours."""
    ours = {setting.metadata["variable"] for setting in fields(Settings)}
    for name in sorted(set(names) - ours):
        near = difflib.get_close_matches(name, ours, 1, CLOSE_ENOUGH)
        if near and near[0] not in names:
            yield f"{name} is no setting; {near[0]} is, and is not set."
