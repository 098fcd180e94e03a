"""Requests without a row in the route table: paths that MLflow cannot have, and those it may.

This only chooses the refusal for a key without the admin scope. Below MLflow's roots (those of the
table) a newer MLflow may have unclassified routes, so they stay closed (403). A path that cannot
exist gets 404 and the nearest known path.
"""

import re
from difflib import get_close_matches
from functools import lru_cache

from app.request.errors import NoSuchPath
from app.request.route_table import METHODS, RouteTable

#: Roots below which a newer MLflow may have routes that the table lacks.
ROOTS = re.compile(
    r"/(?:ajax-)?api/[23]\.0/mlflow(?:-artifacts)?/.+|/ajax-api/3\.0/jobs.*|/gateway/.+"
)

#: Paths that seem to be below a root but cannot exist: a tracking URI that already ends in MLflow's
#: API, routes that MLflow 2 removed, and tags with a slash in the name (MLflow takes one segment).
NEVER = (
    re.compile(r"/.+(/(?:ajax-)?api/[0-9.]+/.*|/v1/traces)"),
    re.compile(r"/(?:ajax-)?api/2\.0/mlflow/(?:experiments|registered-models)/list"),
    re.compile(r"/(?:ajax-)?api/2\.0/mlflow/logged-models/[^/]+/tags/.+/.*"),
    re.compile(r"/(?:ajax-)?api/3\.0/mlflow/datasets/[^/]+/tags/.+/.*"),
)

#: Characters of a path that are compared; a search of the table takes a few milliseconds.
LONGEST = 100


class UnknownPaths:
    """The refusals for one route table."""

    def __init__(self, routes: RouteTable) -> None:
        self._routes = routes
        self._known = sorted({t for route in routes.routes for t in route.templates})
        self._near = lru_cache(maxsize=256)(self._nearest)

    def refusal(self, path: str) -> NoSuchPath | None:
        """Return a 404 for a path that MLflow cannot have; None if it may have the path, or has it
        for another method: then the request is unclassified.

        `path` is decoded once. For authenticated callers only: the search for a near path is slow.
        """
        if self._is_known(path) or self._may_exist(path):
            return None
        near = self._near(path[:LONGEST])
        hint = f" The nearest is {near}." if near else ""
        return NoSuchPath(
            f"MLflow does not have this path.{hint} Append MLflow's own paths to the tracking URI, "
            "<this host>/api/mlflow."
        )

    def _may_exist(self, path: str) -> bool:
        if any(pattern.fullmatch(path) for pattern in NEVER):
            return False
        is_with_slash = path.endswith("/") and self._is_known(path.rstrip("/"))
        return ROOTS.fullmatch(path) is not None and not is_with_slash

    def _is_known(self, path: str) -> bool:
        return any(self._routes.match(method, path) for method in METHODS)

    def _nearest(self, path: str) -> str | None:
        """The known path within this one, or the one with the most similar spelling."""
        nested = NEVER[0].fullmatch(path)
        for candidate in (path.rstrip("/"), nested[1] if nested else ""):
            if candidate and self._is_known(candidate):
                return candidate
        today = re.sub(r"/list/?$", "/search", path.replace("/preview/", "/"))  # after MLflow 2
        if today != path and self._is_known(today):
            return today
        found = get_close_matches(today, self._known, n=1, cutoff=0.6)
        return found[0] if found else None
