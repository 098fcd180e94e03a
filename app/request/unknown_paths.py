"""Requests that no row of the route table matches: what MLflow cannot have, and what it may.

Nothing is opened here; it is decided which refusal a key without the admin scope gets. Below
MLflow's roots (those of the table) a newer MLflow may have routes that nobody has classified: they
stay closed (403). What cannot be there is 404, with the known path that is nearest.
"""

import re
from difflib import get_close_matches
from functools import lru_cache

from app.request.errors import NoSuchPath
from app.request.route_table import METHODS, RouteTable

#: Below these a newer MLflow may have routes that the table does not know.
ROOTS = re.compile(
    r"/(?:ajax-)?api/[23]\.0/mlflow(?:-artifacts)?/.+|/ajax-api/3\.0/jobs.*|/gateway/.+"
)

#: What looks as if it were below a root, and is not: a tracking URI that already ends in MLflow's
#: API, routes that MLflow 2 removed, and tags whose name has a slash (MLflow takes one segment).
NEVER = (
    re.compile(r"/.+(/(?:ajax-)?api/[0-9.]+/.*|/v1/traces)"),
    re.compile(r"/(?:ajax-)?api/2\.0/mlflow/(?:experiments|registered-models)/list"),
    re.compile(r"/(?:ajax-)?api/2\.0/mlflow/logged-models/[^/]+/tags/.+/.*"),
    re.compile(r"/(?:ajax-)?api/3\.0/mlflow/datasets/[^/]+/tags/.+/.*"),
)

#: Characters of a path that are compared; a search through the table costs a few milliseconds.
LONGEST = 100


class UnknownPaths:
    """The refusals for one route table."""

    def __init__(self, routes: RouteTable) -> None:
        self._routes = routes
        self._known = sorted({t for route in routes.routes for t in route.templates})
        self._near = lru_cache(maxsize=256)(self._nearest)

    def refusal(self, path: str) -> NoSuchPath | None:
        """404 for a path that MLflow cannot have; None where it may have it, or has it for another
        method: then nobody has classified the request.

        `path` is decoded once. Meant for authenticated callers: the search for a near path costs.
        """
        if self._is_known(path) or self._may_exist(path):
            return None
        near = self._near(path[:LONGEST])
        hint = f" Near is {near}." if near else ""
        return NoSuchPath(
            f"MLflow does not have this path.{hint} The tracking URI is <this host>/api/mlflow; "
            "MLflow's own paths come behind it."
        )

    def _may_exist(self, path: str) -> bool:
        if any(pattern.fullmatch(path) for pattern in NEVER):
            return False
        is_with_slash = path.endswith("/") and self._is_known(path.rstrip("/"))
        return ROOTS.fullmatch(path) is not None and not is_with_slash

    def _is_known(self, path: str) -> bool:
        return any(self._routes.match(method, path) for method in METHODS)

    def _nearest(self, path: str) -> str | None:
        """The known path in this one, or the one that is written most alike."""
        nested = NEVER[0].fullmatch(path)
        for candidate in (path.rstrip("/"), nested[1] if nested else ""):
            if candidate and self._is_known(candidate):
                return candidate
        today = re.sub(r"/list/?$", "/search", path.replace("/preview/", "/"))  # after MLflow 2
        if today != path and self._is_known(today):
            return today
        found = get_close_matches(today, self._known, n=1, cutoff=0.6)
        return found[0] if found else None
