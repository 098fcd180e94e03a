"""The table of MLflow's routes (mlflow_routes.tsv), and which row a request falls under.

A request is matched as MLflow's own routers match it: exactly in case and in trailing slash, a row
without parameters before one with parameters, and among the latter the first in the file. The
question is asked with the path decoded once, because that is what MLflow routes by.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Self

DEFAULT_FILE = Path(__file__).with_name("mlflow_routes.tsv")

METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE"))

#: The endpoint types of the metrics; bounded, because each is a label value.
KINDS = frozenset(
    """artifacts assistant datasets evaluation experiments gateway graphql jobs logged-models
    mcp-servers metrics model-registry runs server traces ui users webhooks workspaces""".split()
)

#: The traits of the file, and the fields of Route that they set.
TRAITS = {
    "repeatable": "repeatable",
    "chunked": "takes_chunked",
    "copies": "copies",
    "slow": "is_slow",
    "model": "asks_model",
    "partial": "partial",
    "optional": "optional",
}

#: What {api} stands for: MLflow serves the client and its own UI under one prefix each.
API_PREFIXES = ("/api", "/ajax-api")

#: Characters up to which a path is searched for several parameters that may hold slashes: the time
#: grows with the square. MLflow's names there have 256 at most.
LONGEST_SEARCH = 2048

_PARAMETER = re.compile(r"{(?P<name>[a-z_]+)(?P<path>:path)?}")
_OPERATION = re.compile(r"[A-Z][A-Za-z0-9]*")


class Access(Enum):
    """What a route needs: a scope, or REFUSED, which no scope opens."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the file, whose header explains the columns.

    `repeatable`: clients repeat it on 503, though it is a POST that writes.
    `takes_chunked`: a request body may go on chunked (MLflow loses one on all its other routes).
    `copies`, `is_slow` and `asks_model` choose the time limit until MLflow answers. `partial`: a
    failure may leave a part of the work done.
    """

    methods: frozenset[str]
    template: str
    access: Access
    kind: str
    operation: str
    repeatable: bool = False
    takes_chunked: bool = False
    copies: bool = False
    is_slow: bool = False
    asks_model: bool = False
    partial: bool = False
    optional: bool = False

    @property
    def wants_429(self) -> bool:
        """Whether MLflow's client repeats it on 429 only. What asks a model is not its call."""
        is_writing_post = "POST" in self.methods and self.access is not Access.READ
        return is_writing_post and not (self.repeatable or self.asks_model)

    @property
    def templates(self) -> tuple[str, ...]:
        """The template once per prefix that {api} stands for."""
        if not self.template.startswith("{api}"):
            return (self.template,)
        return tuple(prefix + self.template.removeprefix("{api}") for prefix in API_PREFIXES)


class Match(NamedTuple):
    """The row of a request, and the parameters of its template as they stand in the path."""

    route: Route
    parameters: Mapping[str, str]


@dataclass(slots=True)
class _Branch:
    """The templates with parameters, by their leading literal segments: a tree, so that a request
    is held against the few patterns that share its beginning."""

    children: dict[str, "_Branch"] = field(default_factory=dict)
    patterns: list[tuple[re.Pattern[str], Route]] = field(default_factory=list)

    def add(self, head: list[str], pattern: re.Pattern[str], route: Route) -> None:
        """Adds a pattern at `head` and below, so that the deepest branch has all candidates."""
        if not head:
            self.patterns.append((pattern, route))
            for child in self.children.values():
                child.add([], pattern, route)
            return
        child = self.children.setdefault(head[0], _Branch({}, list(self.patterns)))
        child.add(head[1:], pattern, route)


class RouteTable:
    """The rows, and a `match` that costs about as much as a dictionary look-up."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._literal: dict[tuple[str, str], Match] = {}
        self._branches: dict[str, _Branch] = {}
        self._depth = 0
        for route in self.routes:
            for template in route.templates:
                self._index(route, template)

    @classmethod
    def load(cls, path: Path = DEFAULT_FILE) -> Self:
        """Reads the file; ValueError with the line's number for one that makes no sense."""
        return cls(_parse(path.read_text(encoding="utf-8").splitlines()))

    def match(self, method: str, path: str) -> Match | None:
        """The row under which MLflow will serve this, and the parameters of its template; None for
        an unknown route.

        `path` is decoded once and checked: no empty or dot segment, no control character. Should a
        final line feed come through all the same, it does not hide a refused route: Starlette's
        patterns end in `$`, which overlooks it, and so do we.
        """
        method = "GET" if method == "HEAD" else method
        path = path.removesuffix("\n")
        return self._literal.get((method, path)) or self._match_pattern(method, path)

    def _match_pattern(self, method: str, path: str) -> Match | None:
        branch = self._branches.get(method)
        if branch is None:
            return None
        for segment in path.split("/", self._depth):
            child = branch.children.get(segment)
            if child is None:
                break
            branch = child
        for pattern, route in branch.patterns:
            if len(path) > LONGEST_SEARCH and route.template.count(":path}") > 1:
                return None
            if found := pattern.fullmatch(path):
                return Match(route, found.groupdict())
        return None

    def _index(self, route: Route, template: str) -> None:
        parameter = _PARAMETER.search(template)
        if parameter is None:
            self._literal.update({(method, template): Match(route, {}) for method in route.methods})
            return
        head = template[: parameter.start()].split("/")[:-1]
        self._depth = max(self._depth, len(head))
        for method in route.methods:
            self._branches.setdefault(method, _Branch()).add(head, _pattern(template), route)


def _pattern(template: str) -> re.Pattern[str]:
    """A template as a regular expression with a group for each parameter, in the terms of Starlette
    and werkzeug: `[^/]+` for one segment, `.*` for a path."""
    pattern, end = "", 0
    for parameter in _PARAMETER.finditer(template):
        pattern += re.escape(template[end : parameter.start()])
        segments = ".*" if parameter["path"] else "[^/]+"
        pattern += f"(?P<{parameter['name']}>{segments})"
        end = parameter.end()
    return re.compile(pattern + re.escape(template[end:]))


def _parse(lines: Iterable[str]) -> Iterator[Route]:
    """The rows of the file, each checked by itself and against those before it."""
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            route = _route(line)
        except ValueError as error:
            raise ValueError(f"Route table, line {number}: {error}") from None
        for claim in _claims(route):
            first = seen.setdefault(claim, number)
            if first != number:
                raise ValueError(f"Route table, line {number}: line {first} has {claim} already")
        yield route


def _claims(route: Route) -> Iterator[str]:
    """What no two rows may share. The names of parameters do not tell two templates apart."""
    yield f"the operation {route.operation}"
    for template in route.templates:
        nameless = _PARAMETER.sub(r"{\g<path>}", template)
        yield from (f"{method} {nameless}" for method in sorted(route.methods))


def _route(line: str) -> Route:
    columns = line.split("\t")
    if len(columns) not in (5, 6):
        raise ValueError(f"5 or 6 columns separated by tabs are needed, not {len(columns)}")
    methods, template, access, kind, operation = columns[:5]
    traits = columns[5].split(",") if len(columns) == 6 else []
    return Route(
        methods=_known("method", methods.split(","), METHODS),
        template=_checked_template(template),
        access=Access(*_known("access", [access], {known.value for known in Access})),
        kind=next(iter(_known("kind", [kind], KINDS))),
        operation=_checked_operation(operation),
        **dict.fromkeys((TRAITS[trait] for trait in _known("trait", traits, TRAITS)), True),
    )


def _known(column: str, values: list[str], known: Iterable[str]) -> frozenset[str]:
    """The values, if each is a known one and given once."""
    for value in values:
        if value not in known:
            raise ValueError(f"unknown {column} {value!r}; known are {', '.join(sorted(known))}")
    if len(set(values)) != len(values):
        raise ValueError(f"the same {column} twice")
    return frozenset(values)


def _checked_template(template: str) -> str:
    literal = _PARAMETER.sub("", template.removeprefix("{api}"))
    if not literal.startswith("/") or re.search(r"[{}\s]", literal):
        raise ValueError(f"{template!r} is not a path with {{name}} or {{name:path}} in it")
    return template


def _checked_operation(operation: str) -> str:
    if not _OPERATION.fullmatch(operation):
        raise ValueError(f"the operation {operation!r} is not a name in CamelCase")
    return operation
