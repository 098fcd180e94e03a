"""`flask circuit show` and `flask circuit reset`: the circuits of this machine's instances."""

import json
import tempfile
import time
from pathlib import Path

import click

from app.operations.remote_circuits import Instance, instances
from config import Settings

NAMES = ("mlflow", "auth_service")

#: Where gunicorn.conf.py makes an instance's folder (server/instance.py).
PLACES = ("/dev/shm", tempfile.gettempdir())

#: Seconds in which every worker should have done what was asked for.
PATIENCE = 5.0


def circuit(settings: Settings) -> click.Group:
    """The group `circuit`."""

    @click.group("circuit")
    def group() -> None:
        """The circuits to MLflow and to the auth service, in each worker of an instance."""

    choice = click.option(
        "--instance",
        "folder",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="The instance's folder; by default INSTANCE_FOLDER, or what is found here.",
    )

    @group.command("show")
    @choice
    @click.option("--json", "as_json", is_flag=True)
    def show(folder: Path | None, as_json: bool) -> None:
        """Print the state of each circuit: closed (in use), open (left alone), half-open."""
        found = _instances(settings, folder)
        if as_json:
            click.echo(json.dumps([_document(one) for one in found], indent=2))
            return
        for one in found:
            click.echo(f"instance {one.folder}")
            for worker in one.workers():
                states = "  ".join(f"{name}: {state}" for name, state in worker.circuits.items())
                note = "" if worker.alive else "  (says nothing any more: frozen?)"
                click.echo(f"  worker {worker.pid:<8} {states}{note}")

    @group.command("reset")
    @click.argument("names", nargs=-1, type=click.Choice(NAMES))
    @choice
    def reset(names: tuple[str, ...], folder: Path | None) -> None:
        """Close the circuits of all workers, at once: those to NAMES, or both."""
        found = _instances(settings, folder)
        if len(found) > 1:
            listed = "\n".join(f"  --instance {one.folder}" for one in found)
            raise click.ClickException(f"There are several instances here; choose:\n{listed}")
        _reset(found[0], names or NAMES)

    return group


def _reset(instance: Instance, names: tuple[str, ...]) -> None:
    """Asks, and waits until each worker has done it, or PATIENCE is over."""
    try:
        asked = instance.reset(names)
    except OSError as why:
        raise click.ClickException(f"{instance.folder}: {why.strerror}.") from None
    deadline = time.monotonic() + PATIENCE
    while (late := _late(instance, asked)) and time.monotonic() < deadline:
        time.sleep(0.05)
    done = [worker.pid for worker in instance.workers() if worker.done == asked]
    click.echo(f"Closed: {', '.join(names)}; in {len(done)} workers of {instance.folder}.")
    if late:
        listed = ", ".join(str(pid) for pid in late)
        raise click.ClickException(f"No answer from: {listed}. Frozen? They do it when they wake.")


def _late(instance: Instance, asked: str) -> list[int]:
    return [worker.pid for worker in instance.workers() if worker.done != asked]


def _instances(settings: Settings, folder: Path | None) -> list[Instance]:
    """The instances that are meant; a ClickException where there is none."""
    named = folder or (Path(settings.instance_folder) if settings.instance_folder else None)
    if named is None:
        found = instances(Path(place) for place in dict.fromkeys(PLACES))
    else:
        found = [one for one in [Instance(named)] if one.workers()]
    if not found:
        where = str(named) if named else " and ".join(dict.fromkeys(PLACES))
        raise click.ClickException(
            f"No worker of a proxy is found in {where}. Run this on the proxy's machine or in its "
            "container, as its user; with INSTANCE_FOLDER, if the proxy has one."
        )
    return found


def _document(instance: Instance) -> dict[str, object]:
    return {
        "instance": str(instance.folder),
        "workers": [
            {"pid": worker.pid, "alive": worker.alive, "circuits": worker.circuits}
            for worker in instance.workers()
        ],
    }
