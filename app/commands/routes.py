"""`flask mlflow-routes`: what a scope may do.

Flask's own `flask routes` stays what it is: Flask looks up its built-in commands before it loads an
application, so that no application can put one of its own in their place.
"""

import json

import click

from app.auth.authorization import SCOPES, granted
from app.request.principal import Principal
from app.request.route_table import KINDS, METHODS, Route, RouteTable


def routes(table: RouteTable, split_scopes: bool) -> click.Command:
    """The command `mlflow-routes`; `split_scopes` as SPLIT_SCOPES."""

    @click.command("mlflow-routes")
    @click.option(
        "--scope", multiple=True, help=f"One that a key has: {', '.join(sorted(SCOPES))}."
    )
    @click.option("--denied", is_flag=True, help="What these scopes may not do, instead.")
    @click.option("--kind", type=click.Choice(sorted(KINDS)), help="Only this part of MLflow.")
    @click.option("--method", type=click.Choice(sorted(METHODS), case_sensitive=False))
    @click.option("--json", "as_json", is_flag=True)
    def command(
        scope: tuple[str, ...], denied: bool, kind: str | None, method: str | None, as_json: bool
    ) -> None:
        """List MLflow's routes, and what each needs; with --scope, what a key with it may do.

        A path that is not in the list needs admin.
        """
        unknown = sorted(set(scope) - SCOPES)
        if unknown:
            known = ", ".join(sorted(SCOPES))
            raise click.UsageError(f"{', '.join(unknown)} grants nothing. Known: {known}.")
        may = granted(Principal("", "", "", frozenset(scope), None, False), split_scopes)
        found = [
            route
            for route in table.routes
            if (not scope or (route.access in may) != denied)
            and kind in (None, route.kind)
            and (method is None or method.upper() in route.methods)
        ]
        if as_json:
            click.echo(json.dumps([_document(route) for route in found], indent=2))
            return
        for route in found:
            methods = ",".join(sorted(route.methods))
            click.echo(f"{route.access.value:<8}{methods:<8}{route.template}  {route.operation}")
        click.echo(f"{len(found)} of {len(table.routes)} routes. {{api}} is /api or /ajax-api.")

    return command


def _document(route: Route) -> dict[str, object]:
    return {
        "methods": sorted(route.methods),
        "paths": list(route.templates),
        "access": route.access.value,
        "kind": route.kind,
        "operation": route.operation,
    }
