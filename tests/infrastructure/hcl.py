"""The module's resources without terraform: HCL read by python-hcl2, and as many of its expressions
worked out as the checks need. What cannot be worked out is an `Unknown`, which no check takes for a
value.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hcl2

from tests.infrastructure.deployment import Resource

_REFERENCE = re.compile(r"(aws_\w+)\.(\w+)(?:\[0\])?\.(\w+)")
_STRUCTURE = "__"  # python-hcl2's own notes begin with it


class Unknown(str):
    """The text of an expression that is known at apply only, or not understood here."""

    __slots__ = ()


@cache
def _parsed(text: str) -> dict[str, Any]:
    """A file, parsed; nobody changes what is returned."""
    return dict(hcl2.loads(text))


class Module:
    """One folder of `.tf` files, beside the JSON file that it reads."""

    def __init__(self, folder: Path, **variables: Any) -> None:
        """`variables` are those of the module that are to be known."""
        self._variables = {f"var.{name}": value for name, value in variables.items()}
        self._blocks = [_parsed(file.read_text("utf-8")) for file in sorted(folder.glob("*.tf"))]
        contract = json.loads((folder.parent / "routes.json").read_text("utf-8"))
        self._locals = {
            name: value
            for block in self._all("locals")
            for name, value in block.items()
            if not name.startswith(_STRUCTURE)
        }
        # What needs functions that are not worked out here.
        self._known = {
            "local.contract": contract,
            "local.routes": {route["name"]: route for route in contract["routes"]},
            "local.host": contract["host"],
            "local.listener_arn": "aws_lb_listener.https",
            "local.alb_security_group_id": "aws_security_group.alb",
        }

    def resources(self) -> Iterator[Resource]:
        """Every resource; one with `for_each` over the routes is one for each route."""
        for block in self._all("resource"):
            for kind, named in block.items():
                for name, body in named.items():
                    yield from self._instances(kind.strip('"'), name.strip('"'), body)

    def local(self, name: str) -> Any:
        """A local value."""
        return self._path(f"local.{name}", {})

    def _all(self, kind: str) -> Iterator[dict[str, Any]]:
        for file in self._blocks:
            yield from file.get(kind, [])

    def _instances(self, kind: str, name: str, body: dict[str, Any]) -> Iterator[Resource]:
        address = f"{kind}.{name}"
        each = self._value(body["for_each"], {}) if "for_each" in body else None
        if not isinstance(each, dict):  # none, or over something else: one stands for all
            yield Resource(kind, name, address, self._value(body, {}))
            return
        for key, value in each.items():
            here = {"each.key": key, "each.value": value}
            yield Resource(kind, name, f'{address}["{key}"]', self._value(body, here))

    def _value(self, given: Any, here: dict[str, Any]) -> Any:
        """A value with its expressions worked out."""
        if isinstance(given, dict):
            return {
                name.strip('"'): self._value(value, here)
                for name, value in given.items()
                if not name.startswith(_STRUCTURE)
            }
        if isinstance(given, list):
            return [self._value(value, here) for value in given]
        if not isinstance(given, str):
            return given
        if given.startswith('"'):
            return self._template(given[1:-1], here)
        whole = re.fullmatch(r"\$\{(.*)\}", given, re.DOTALL)
        return self._expression(whole[1], here) if whole else given

    def _template(self, text: str, here: dict[str, Any]) -> str:
        """A quoted string with its `${…}` filled in."""
        parts = re.split(r"\$\{([^}]*)\}", text)
        values = [self._expression(part, here) for part in parts[1::2]]
        if any(isinstance(value, Unknown) for value in values):
            return Unknown(text)
        filled = [parts[0]]
        for value, after in zip(values, parts[2::2], strict=True):
            filled += [str(value), after]
        return "".join(filled).replace('\\"', '"')

    def _expression(self, text: str, here: dict[str, Any]) -> Any:
        text = text.strip()
        if call := re.fullmatch(r"(tostring|jsonencode)\((.*)\)", text, re.DOTALL):
            inner = self._value(_parsed(f"it = {call[2]}\n")["it"], here)
            return str(inner) if call[1] == "tostring" else inner
        if text == "each.value.priority + var.listener_rule_priority_offset":
            return here["each.value"]["priority"]  # the offset is 0 by default
        if reference := _REFERENCE.fullmatch(text):
            return self._reference(reference[1], reference[2], reference[3], here)
        if re.fullmatch(r"(local|each)\.[\w.]+", text):
            return self._path(text, here)
        return self._variables.get(text, Unknown(text))

    def _reference(self, kind: str, name: str, attribute: str, here: dict[str, Any]) -> Any:
        """A resource's name, where it gives itself one; else the resource stands for itself."""
        if attribute == "name":
            for block in self._all("resource"):
                body = block.get(f'"{kind}"', {}).get(f'"{name}"', {})
                if attribute in body:
                    return self._value(body[attribute], here)
        return f"{kind}.{name}"

    def _path(self, dotted: str, here: dict[str, Any]) -> Any:
        """`local.a.b` or `each.value.a`: the head is looked up, the rest are keys."""
        head, *keys = re.findall(r"^\w+\.\w+|(?<=\.)\w+", dotted)
        known = self._known | here
        if head in known:
            value = known[head]
        elif head.removeprefix("local.") in self._locals:
            value = self._value(self._locals[head.removeprefix("local.")], here)
        else:
            return Unknown(dotted)
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                return Unknown(dotted)
            value = value[key]
        return value
