"""The table of MLflow's routes (mlflow_routes.tsv), and the lookup of a request's row.

A request matches as in MLflow's own routers: case and trailing slash are exact, a row without
parameters wins over one with parameters, and among the latter the first in the file. The lookup
takes the path decoded once, because MLflow routes by that.
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

#: The longest path, in characters, that is matched against several parameters with slashes: the
#: time grows with the square. MLflow's names there have at most 256.
LONGEST_SEARCH = 2048

_PARAMETER = re.compile(r"{(?P<name>[a-z_]+)(?P<path>:path)?}")
_OPERATION = re.compile(r"[A-Z][A-Za-z0-9]*")


class Access(Enum):
    """The access that a route requires: a scope, or REFUSED, which no scope grants."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    GATEWAY = "gateway"
    ADMIN = "admin"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the file, whose header explains the columns.

    `repeatable`: clients retry it on 503, although it is a POST that writes.
    `takes_chunked`: the request body may be forwarded chunked (all other routes of MLflow lose a
    chunked body). `copies`, `is_slow` and `asks_model` select the timeout for MLflow's response.
    `partial`: a failure may leave part of the work done.
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
    def takes_slot(self) -> bool:
        """Whether it writes to MLflow's database, so that the bound on writes applies."""
        return self.access in (Access.WRITE, Access.DELETE) and self.kind != "artifacts"

    @property
    def templates(self) -> tuple[str, ...]:
        """The template, once per prefix in {api}."""
        if not self.template.startswith("{api}"):
            return (self.template,)
        return tuple(prefix + self.template.removeprefix("{api}") for prefix in API_PREFIXES)


class Match(NamedTuple):
    """A request's row, and the template's parameters as written in the path."""

    route: Route
    parameters: Mapping[str, str]


@dataclass(slots=True)
class _Branch:
    """The templates with parameters, as a tree of their leading literal segments: a request is
    matched only against the patterns that share its beginning."""

    children: dict[str, "_Branch"] = field(default_factory=dict)
    patterns: list[tuple[re.Pattern[str], Route]] = field(default_factory=list)

    def add(self, head: list[str], pattern: re.Pattern[str], route: Route) -> None:
        """Add a pattern at `head` and below, so the deepest branch holds all candidates."""
        if not head:
            self.patterns.append((pattern, route))
            for child in self.children.values():
                child.add([], pattern, route)
            return
        child = self.children.setdefault(head[0], _Branch({}, list(self.patterns)))
        child.add(head[1:], pattern, route)


class RouteTable:
    """The rows, with a `match` that costs about as much as a dictionary lookup."""

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
        """Read the file. Raises ValueError with the number of an invalid line."""
        return cls(_parse(path.read_text(encoding="utf-8").splitlines()))

    def match(self, method: str, path: str) -> Match | None:
        """Find the row by which MLflow will route this, and the template's parameters; None for an
        unknown route.

        `path` is decoded once and checked: no empty or dot segment, no control character. Even so,
        a final line feed is ignored, as in Starlette's patterns, which end in `$`: it must not hide
        a refused route.
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
    """Compile a template to a regular expression with a group per parameter, as Starlette and
    werkzeug do: `[^/]+` for one segment, `.*` for a path."""
    pattern, end = "", 0
    for parameter in _PARAMETER.finditer(template):
        pattern += re.escape(template[end : parameter.start()])
        segments = ".*" if parameter["path"] else "[^/]+"
        pattern += f"(?P<{parameter['name']}>{segments})"
        end = parameter.end()
    return re.compile(pattern + re.escape(template[end:]))


def _parse(lines: Iterable[str]) -> Iterator[Route]:
    """Parse the file's rows; check each by itself and against the rows before it."""
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
    """What no two rows may share. Templates that differ only in parameter names are equal."""
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
    """Check that each value is known and occurs once."""
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
