"""Name look-ups in health: a part can answer, by its last good address, while they fail."""

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from app.health.diagnosis import DEGRADED, HEALTHY, Finding, Part
from app.health.results import Question
from app.upstream.names import NAMES


def with_name_lookups(
    questions: Mapping[str, Question], parts: Mapping[str, Part], timeout: float
) -> dict[str, Question]:
    """The questions; those in `parts`, by name, also look up the host of their part, for at most
    `timeout` seconds. A good answer is degraded where that fails."""
    made = dict(questions)
    for check, part in parts.items():
        made[check] = _with_name_lookup(questions[check], part, timeout)
    return made


def _with_name_lookup(question: Question, part: Part, timeout: float) -> Question:
    host = urlsplit(f"//{part.host}").hostname or ""

    def ask() -> Finding:
        found = question.ask()
        if found.status != HEALTHY or not host or not _fails(host, timeout):
            return found
        return Finding(DEGRADED, part.says("last address"), f"{part.host}: look-ups fail")

    return replace(question, ask=ask)


def _fails(host: str, timeout: float) -> bool:
    """Looks the host up, unless that was done just now: kept connections need no look-up, and the
    next one would meet the trouble."""
    try:
        NAMES.addresses(host, timeout)
    except OSError:
        return True
    return NAMES.failing(host)
