"""`flask config check`: every complaint about the environment, and the settings that count."""

import json

import click

from config import Settings, effective


def config(settings: Settings) -> click.Group:
    """The group `config`."""

    @click.group("config")
    def group() -> None:
        """The proxy's settings."""

    @group.command("check")
    @click.option("--json", "as_json", is_flag=True)
    def check(as_json: bool) -> None:
        """Print the settings that count here, secrets hidden.

        Where one cannot be used, every flask command says so, with all complaints at once, and
        ends with status 1; that comes before this is reached.
        """
        shown, doubts = effective.shown(settings), effective.doubts(settings)
        if as_json:
            click.echo(json.dumps({"ok": True, "settings": shown, "doubts": doubts}, indent=2))
            return
        width = max(map(len, shown))
        for variable, value in shown.items():
            click.echo(f"{variable:<{width}}  {value}")
        for doubt in doubts:
            click.echo(f"! {doubt}", err=True)
        click.echo(f"{len(shown)} settings, all of them can be used.")

    return group
