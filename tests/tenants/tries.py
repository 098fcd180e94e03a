"""From the table in rows.py to requests."""

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from string import Template
from typing import Any

from app.request.route_table import Access, Route, RouteTable
from tests.tenants.rows import ROWS
from tests.tenants.shapes import BODIES, HEADERS, PARAMETERS
from tests.tenants.tenant import Answer, Fields, Tenant

ROUTES = RouteTable.load().routes

#: Access that the keys of tenants do not have: rows.py needs no line for these.
CLOSED = (Access.ADMIN, Access.REFUSED)

#: What is sent first. Writing comes after reading: it may make names that both tenants have.
ORDER = (Access.READ, Access.GATEWAY, Access.DELETE, Access.WRITE, *CLOSED)

#: Kinds of routes that read JSON, and nothing besides.
ONE_SPELLING = {"gateway", "graphql", "jobs", "mcp-servers", "ui"}

#: Routes that read the body of a GET, and never its query.
READS_BODY = {"GraphQL"}

PARAMETER = re.compile(r"{(\w+)(?::path)?}")

Ids = Mapping[str, str]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Try:
    """A request with `$name` for the ids in it. `parts` are its path, its fields and its headers,
    the last two as JSON. `place` is the only one of its places that gets an id of the owner's, and
    not of the sender's; None: all of them do."""

    route: Route
    method: str
    template: str
    parts: tuple[str, str, str]
    place: int | None = None
    spelling: str = "plain"

    def __str__(self) -> str:
        place = "" if self.place is None else f" with their {self.places[self.place][1]} alone"
        return f"{self.method} {self.template} {self.parts[1]}{place}, {self.spelling}"

    @property
    def pair(self) -> Pair:
        """Method and path, as in the route table."""
        return self.method, self.template

    @property
    def places(self) -> list[tuple[int, str]]:
        """Where an id stands: the number of the part, and the name."""
        found = [Template(part).get_identifiers() for part in self.parts]
        return [(n, name) for n, names in enumerate(found) for name in names if name != "fresh"]

    def alone(self) -> Iterator["Try"]:
        """The same with one of the owner's ids at a time, if there are several."""
        count = len(self.places)
        yield from (replace(self, place=place) for place in range(count if count > 1 else 0))

    def spelt(self) -> Iterator["Try"]:
        """The same in other spellings, if MLflow has a reader that takes them."""
        one = self.route.kind in ONE_SPELLING or self.route.operation in (*BODIES, *HEADERS)
        if one or self.parts[1] == "{}":
            return
        known = SPELLINGS.keys() - {"plain", *(() if self.method == "GET" else ("in the body",))}
        yield from (replace(self, spelling=name) for name in sorted(known))

    def linked(self) -> "Try":
        """The same with the owner's workspace in the query, as a link to a file has it."""
        path, fields, headers = self.parts
        named = json.dumps(json.loads(fields) | {"workspace": "$workspace"})
        return replace(self, parts=(path, named, headers))

    def send(self, sender: Tenant, senders: Ids, owners: Ids) -> Answer:
        """Send it."""
        fresh = {"fresh": f"new-{secrets.token_hex(8)}"}
        values = [{**fresh, **(owners if self.place is None else senders)} for _ in self.parts]
        if self.place is not None:
            part, name = self.places[self.place]
            values[part][name] = owners[name]
        path, fields, headers = (
            Template(part).substitute(value) for part, value in zip(self.parts, values, strict=True)
        )
        sent, body = json.loads(headers), BODIES.get(self.route.operation)
        if body is not None or (self.method == "GET" and self._is_in_query()):
            return sender.send(self.method, path, json.loads(fields), sent, body)
        before = Template(self.parts[1]).substitute({**fresh, **senders})
        body = SPELLINGS[self.spelling](json.loads(fields), json.loads(before))
        return sender.send(
            self.method, path, headers={"Content-Type": "application/json"} | sent, body=body
        )

    def _is_in_query(self) -> bool:
        return self.spelling == "plain" and self.route.operation not in READS_BODY


def _camel(value: Any) -> Any:
    """With the names of fields as protobuf's JSON has them."""
    if isinstance(value, dict):
        names = {name: re.sub("_(.)", lambda found: found[1].upper(), name) for name in value}
        return {names[name]: _camel(below) for name, below in value.items()}
    return [_camel(below) for below in value] if isinstance(value, list) else value


def _twice(fields: Fields, before: Fields) -> bytes:
    """Each field twice, the sender's own first: the last one counts."""
    return (json.dumps(before)[:-1] + ", " + json.dumps(fields)[1:]).encode()


#: Bodies that MLflow reads as the same fields: from these and from those with the sender's ids.
SPELLINGS: dict[str, Callable[[Fields, Fields], bytes]] = {
    "plain": lambda fields, before: json.dumps(fields).encode(),
    "in the body": lambda fields, before: json.dumps(fields).encode(),  # of a GET
    "in camel case": lambda fields, before: json.dumps(_camel(fields)).encode(),
    "in UTF-16": lambda fields, before: json.dumps(fields).encode("utf-16"),
    "as a string": lambda fields, before: json.dumps(json.dumps(fields)).encode(),
    "after other ids": _twice,
}


def pairs(route: Route) -> Iterator[Pair]:
    """Each method and path of a row."""
    for template in route.templates:
        yield from ((method, template) for method in sorted(route.methods))


def parameters(template: str) -> list[str]:
    """The parameters in a path."""
    return [found[1] for found in PARAMETER.finditer(template)]


def tries(route: Route, method: str, template: str) -> Iterator[Try]:
    """The requests for a row. Raises KeyError for one without a line in rows.py, or with a
    parameter that shapes.py does not have."""
    row = ROWS.get(route.operation, {}) if route.access in CLOSED else ROWS[route.operation]
    path = PARAMETER.sub(lambda found: PARAMETERS[found[1]], template)
    headers = json.dumps(HEADERS.get(route.operation, {}))
    for fields in [row] if isinstance(row, Mapping) else row:
        yield Try(route, method, template, (path, json.dumps(fields), headers))


def all_tries(twins: bool) -> list[Try]:
    """The requests for all rows, by the first of the row's paths, or by the second (`twins`)."""
    found = chain.from_iterable(
        tries(route, *pair)
        for route in ROUTES
        for pair in pairs(route)
        if (pair[1] != route.templates[0]) is twins
    )
    return sorted(found, key=_order)


def _order(each: Try) -> tuple[int, bool]:
    """A location comes late: what it does to a trace keeps others from being tried."""
    has_location = re.search(r"\$\w+_(location|folder)", each.parts[1]) is not None
    return ORDER.index(each.route.access), has_location
