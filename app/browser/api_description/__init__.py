"""The OpenAPI description of the proxy's own paths, as a file and as a page.

openapi.json is written by hand; tests/docs/ compares it with the running proxy. A template makes
the page of it, without scripts and without anything from another host.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from flask import Blueprint, Response, render_template
from markupsafe import Markup, escape

FILE = Path(__file__).with_name("openapi.json")

#: The page's own style, and nothing else.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"

METHODS = ("get", "head", "post", "put", "patch", "delete", "options")


def blueprint() -> Blueprint:
    """Both routes, below /api/health/, which load balancers forward to the proxy already."""
    routes = Blueprint("api_description", __name__, template_folder="templates")
    routes.add_app_template_filter(code, "code")

    @routes.get("/api/health/openapi.json")
    def as_file() -> Response:
        return _answer(FILE.read_bytes(), "application/json")

    @routes.get("/api/health/docs")
    def as_page() -> Response:
        response = _answer(_page(), "text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return routes


def _answer(content: bytes | str, content_type: str) -> Response:
    response = Response(content, content_type=content_type)
    response.headers["Cache-Control"] = "no-store"
    return response


@cache
def _page() -> str:
    document = orjson.loads(FILE.read_bytes())
    paths = _with_aliases_together(document)
    return render_template(
        "api.html", document=document, paths=paths, methods=METHODS, find=_finder(document)
    )


def _with_aliases_together(document: dict[str, Any]) -> list[tuple[list[str], dict[str, Any]]]:
    """([paths], item): paths that refer to the same item are aliases of each other."""
    find = _finder(document)
    found: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for path, item in document["paths"].items():
        names, _ = found.setdefault(item.get("$ref", path), ([], find(item)))
        names.append(path)
    return list(found.values())


def _finder(document: dict[str, Any]) -> Any:
    """A function that follows a `$ref` in the document, and returns anything else as it is."""

    def find(part: Any) -> Any:
        if not (isinstance(part, dict) and "$ref" in part):
            return part
        target: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return find(target)

    return find


def code(text: str) -> Markup:
    """Show text in `backquotes` as code; escape the rest."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
