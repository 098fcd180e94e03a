"""The effective settings for display: secrets hidden, likely mistakes reported."""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from config.settings import Settings, as_text

#: The similarity (0 to 1) at which an unknown variable counts as a misspelt setting.
CLOSE_ENOUGH = 0.85


def shown(settings: Settings) -> dict[str, str]:
    """Value by variable, in the order of the reference. A secret is "(set, hidden)"; a secret URL
    lacks everything before its @ and after its ?."""
    return {
        setting.metadata["variable"]: _shown(setting.metadata, getattr(settings, setting.name))
        for setting in fields(Settings)
    }


def _shown(facts: Mapping[str, Any], value: Any) -> str:
    if facts["secret"] and facts["variable"].endswith("_URL"):
        scheme, _, rest = value.partition("://")
        hidden = "(hidden)@" if "@" in rest else ""
        return f"{scheme}://{hidden}{rest.rpartition('@')[2].partition('?')[0]}"
    if value == "":
        return "(not set)"
    return "(set, hidden)" if facts["secret"] else as_text(value)


def doubts(settings: Settings, environ: Mapping[str, str] | None = None) -> list[str]:
    """Settings that are valid but probably a mistake: one sentence each, without values."""
    given = os.environ if environ is None else environ
    found = list(_misspelt(given))
    if settings.instances > 1 and not settings.auth_cache_secret:
        found.append(
            "INSTANCES is more than 1 and AUTH_CACHE_SECRET is not set: instances do not share "
            "cached decisions."
        )
    if settings.redis_url.startswith("memory:"):
        found.append("REDIS_URL is memory://: limits and revocations cover this process only.")
    return found


def _misspelt(names: Iterable[str]) -> Iterable[str]:
    ours = {setting.metadata["variable"] for setting in fields(Settings)}
    for name in sorted(set(names) - ours):
        near = difflib.get_close_matches(name, ours, 1, CLOSE_ENOUGH)
        if near and near[0] not in names:
            yield f"{name} is not a setting; {near[0]} is, and is not set."
