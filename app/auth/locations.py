"""Storage locations that keys without the admin scope may use: ALLOWED_LOCATIONS.

A location is compared as MLflow and its stores would resolve it, segment by segment. One that they
could resolve in several ways is outside.
"""

import re
import unicodedata
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

#: What stands in an allowed location for the workspace; without it, `workspaces/<name>` is added,
#: as MLflow does.
WORKSPACE = "{workspace}"

#: The folder of MLflow's workspaces below an artifact root.
FOLDER = "workspaces"

#: Where MLflow proxies the artifacts itself.
PROXIED = "mlflow-artifacts"

#: The most characters of a location; MLflow keeps 8000 of a tag. A long one takes long to decode.
LONGEST = 8000

#: The characters of a tag's name that a database may keep.
LONGEST_NAME = 250

#: Control characters, which urlsplit drops or stores cut at; separators of Windows; what would not
#: belong to the path.
_UNCLEAR = re.compile(r"[\x00-\x1f\x7f\\?#]")


def folded(name: str) -> str:
    """A name as the most lenient database compares it: without case, accents, outer blanks, and
    what is too long for its column. A long one could take hours: the time grows with the square."""
    letters = unicodedata.normalize("NFKD", name.strip()[:LONGEST_NAME]).casefold()
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


class _Place(NamedTuple):
    """A location, resolved. Local paths have the scheme file."""

    scheme: str
    host: str
    segments: tuple[str, ...]

    def holds(self, other: "_Place") -> bool:
        """Whether the other is the same place, or below it."""
        same_root = (self.scheme, self.host) == (other.scheme, other.host)
        return same_root and other.segments[: len(self.segments)] == self.segments


class Locations:
    """The allowed locations."""

    def __init__(self, prefixes: str) -> None:
        """`prefixes` is ALLOWED_LOCATIONS, with commas."""
        self._prefixes = [prefix.strip() for prefix in prefixes.split(",") if prefix.strip()]

    def allow(self, location: str, workspace: str, is_scoped: bool = False) -> bool:
        """Whether the location is inside an allowed one, and inside the `workspace` ("" without
        workspaces). `is_scoped`: MLflow puts a path of proxied artifacts that names no workspace
        below the request's own."""
        owns = [own for prefix in self._prefixes if (own := _own(prefix, workspace))]
        scope = workspace if is_scoped else ""
        decoded = _decoded(location) if len(location) <= LONGEST else None
        # A store may decode the text or not. What is inside before and after is so in between.
        return (
            decoded is not None
            and _is_inside(location, owns, scope)
            and _is_inside(decoded, [_decoded(own) or own for own in owns], scope)
        )


def _is_inside(location: str, owns: list[str], scope: str) -> bool:
    place = _place(location)
    if place is None:
        return False
    if scope and place.scheme == PROXIED and place.segments[:1] != (FOLDER,):
        place = place._replace(segments=(FOLDER, scope, *place.segments))
    return any(own.holds(place) for text in owns if (own := _place(text)))


def _own(prefix: str, workspace: str) -> str:
    """The part of an allowed location that is the workspace's; "" if it has none."""
    if WORKSPACE in prefix:
        return prefix.replace(WORKSPACE, workspace) if workspace else ""
    return f"{prefix.rstrip('/')}/{FOLDER}/{workspace}" if workspace else prefix


def _decoded(location: str) -> str | None:
    """Decode percent-escapes until nothing changes; None if that takes too long."""
    for _ in range(10):
        decoded = unquote(location)
        if decoded == location:
            return decoded
        location = decoded
    return None


def _place(location: str) -> _Place | None:
    """None for a location that is relative, or not clear."""
    if _UNCLEAR.search(location) or location != location.strip():
        return None
    try:
        parts = urlsplit(location)
    except ValueError:  # `//[` begins an IPv6 address
        return None
    segments = _segments(parts)
    if segments is None:
        return None
    if parts.scheme in ("", "file"):
        if parts.scheme and not location.startswith("file:"):
            return None  # MLflow takes FILE: for a relative path
        host = "" if parts.netloc == "localhost" else parts.netloc
        return _Place("file", host, segments) if parts.path.startswith("/") else None
    return _Place(parts.scheme, parts.netloc, segments)


def _segments(parts: SplitResult) -> tuple[str, ...] | None:
    """None for one that a file system would drop (empty, `.`) or follow (`..`)."""
    path = parts.path.removeprefix("/").removesuffix("/")
    segments = tuple(path.split("/")) if path else ()
    return None if {"", ".", ".."} & {*segments} else segments
