"""CloudWatch's filter patterns for JSON log lines, as far as monitoring.tf uses them.

`{ ($.a = "x*") && (($.b = 502) || ($.c = "y")) }`: selectors are compared with strings, in which
`*` stands for anything, or with numbers; a missing field is not equal to anything. A pattern that
uses more is refused with ValueError.
"""

import re
from collections.abc import Callable
from typing import Any

Matcher = Callable[[dict[str, Any]], bool]

_TOKEN = re.compile(
    r"\s*(?:(?P<mark>\(|\)|&&|\|\|)"
    r"|(?P<comparison>\$\.(?P<field>\w+)\s*=\s*(?:\"(?P<text>[^\"]*)\"|(?P<number>\d+))))"
)


def matcher(pattern: str) -> Matcher:
    """Whether a log line, parsed, matches."""
    inner = re.fullmatch(r"\{(.*)\}", pattern.strip(), re.DOTALL)
    if not inner:
        raise ValueError("a JSON pattern stands in braces")
    tokens = _tokens(inner[1].strip())
    found = _either(tokens)
    if tokens:
        raise ValueError(f"not understood: {tokens}")
    return found


def _tokens(text: str) -> list[re.Match[str]]:
    tokens, position = [], 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if not token:
            raise ValueError(f"not understood: {text[position:]}")
        tokens.append(token)
        position = token.end()
    return tokens


def _either(tokens: list[re.Match[str]]) -> Matcher:
    parts = [_both(tokens)]
    while tokens and tokens[0]["mark"] == "||":
        tokens.pop(0)
        parts.append(_both(tokens))
    return lambda line: any(part(line) for part in parts)


def _both(tokens: list[re.Match[str]]) -> Matcher:
    parts = [_one(tokens)]
    while tokens and tokens[0]["mark"] == "&&":
        tokens.pop(0)
        parts.append(_one(tokens))
    return lambda line: all(part(line) for part in parts)


def _one(tokens: list[re.Match[str]]) -> Matcher:
    token = tokens.pop(0)
    if token["mark"] == "(":
        inner = _either(tokens)
        if not tokens or tokens.pop(0)["mark"] != ")":
            raise ValueError("a bracket is not closed")
        return inner
    if not token["comparison"]:
        raise ValueError(f"not understood: {token[0]}")
    field, number = token["field"], token["number"]
    if number is not None:
        return lambda line: line.get(field) == int(number)
    expression = ".*".join(re.escape(part) for part in token["text"].split("*"))
    wanted = re.compile(expression, re.DOTALL)
    return lambda line: field in line and wanted.fullmatch(str(line[field])) is not None
