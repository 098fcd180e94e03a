"""`flask circuit show` and `flask circuit reset`: the circuits of this machine's instances."""

import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click

from app.state.circuits import CircuitBoard, instances
from app.state.instance_database import FILE
from config import Settings

NAMES = ("mlflow", "auth_service")

#: Where gunicorn.conf.py makes an instance's folder (app/server/instance.py).
PLACES = ("/dev/shm", tempfile.gettempdir())

#: Seconds in which every worker should have closed its circuits.
TIMEOUT = 5.0


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
        """Print the state of each circuit: closed (in use), open (not used), half-open."""
        found = {place: board.workers() for place, board in _instances(settings, folder).items()}
        if as_json:
            documents = [
                {"instance": str(place), "workers": [asdict(worker) for worker in workers]}
                for place, workers in found.items()
            ]
            click.echo(json.dumps(documents, indent=2))
            return
        for place, workers in found.items():
            click.echo(f"instance {place}")
            for worker in workers:
                states = "  ".join(f"{name}: {state}" for name, state in worker.circuits.items())
                note = "" if worker.alive else "  (no report lately: frozen?)"
                click.echo(f"  worker {worker.pid:<8} {states}{note}")

    @group.command("reset")
    @click.argument("names", nargs=-1, type=click.Choice(NAMES))
    @choice
    def reset(names: tuple[str, ...], folder: Path | None) -> None:
        """Close the circuits of all workers, at once: those to NAMES, or both."""
        found = _instances(settings, folder)
        if len(found) > 1:
            listed = "\n".join(f"  --instance {place}" for place in found)
            raise click.ClickException(f"There are several instances here; choose:\n{listed}")
        _reset(*found.popitem(), names or NAMES)

    return group


def _reset(folder: Path, board: CircuitBoard, names: tuple[str, ...]) -> None:
    """Asks the workers, and waits for them until TIMEOUT."""
    if not board.reset(names):
        raise click.ClickException(f"{folder}: the workers cannot be asked.")
    deadline = time.monotonic() + TIMEOUT
    while (late := board.late()) and time.monotonic() < deadline:
        time.sleep(0.05)
    done = [worker for worker in board.workers() if worker.pid not in late]
    click.echo(f"Closed: {', '.join(names)}; in {len(done)} workers of {folder}.")
    if late:
        listed = ", ".join(str(pid) for pid in late)
        raise click.ClickException(f"No answer from: {listed}. If frozen, they do it later.")


def _instances(settings: Settings, folder: Path | None) -> dict[Path, CircuitBoard]:
    """The chosen instances, by folder; a ClickException where there is none."""
    named = folder or settings.instance_folder
    made = (
        file.parent
        for place in dict.fromkeys(PLACES)
        for file in sorted(Path(place).glob(f"hokusai-*/{FILE}"))
    )
    found = instances([Path(named)] if named else made)
    if not found:
        where = named or " and ".join(PLACES)
        raise click.ClickException(
            f"No worker of a proxy is found in {where}. Run this on the proxy's machine or in its "
            "container, as its user; with INSTANCE_FOLDER, if the proxy has one."
        )
    return found
