"""The pages of the documentation, taken apart: fenced blocks, headings, links."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = "```"

_HEADING = re.compile(r"#{1,6} (.+)")
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`]*`")
_NOT_RUN = re.compile(r"<!-- not run:(.*)-->")


@dataclass(frozen=True)
class Block:
    """A fenced block. `line` is its first one's number; `not_run` is the reason that the comment
    right before it gives, None where there is no such comment."""

    page: Path
    line: int
    heading: str
    language: str
    code: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line} {self.heading}"


def name(page: Path) -> str:
    """A page's path from the top of the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    heading = before = ""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
    for number, line in lines:
        if line.startswith(FENCE):
            code = [text for _, text in takewhile(lambda pair: pair[1] != FENCE, lines)]
            reason = _NOT_RUN.fullmatch(before)
            not_run = reason[1].strip() if reason else None
            language = line.removeprefix(FENCE)
            yield Block(page, number + 1, heading, language, "\n".join(code) + "\n", not_run)
        elif title := _HEADING.fullmatch(line):
            heading = title[1]
        before = line


def prose(page: Path) -> list[str]:
    """The lines outside of fenced blocks."""
    fenced, kept = False, []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith(FENCE):
            fenced = not fenced
        elif not fenced:
            kept.append(line)
    return kept


def links(page: Path) -> Iterator[str]:
    """The targets of a page's links."""
    yield from _LINK.findall(_CODE.sub("``", "\n".join(prose(page))))


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for line in prose(page):
        if title := _HEADING.fullmatch(line):
            plain = re.sub(r"[^\w\- ]", "", title[1].lower()).replace(" ", "-")
            found.add(f"{plain}-{seen[plain]}" if seen[plain] else plain)
            seen[plain] += 1
    return found
