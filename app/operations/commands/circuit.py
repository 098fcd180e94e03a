"""`flask circuit show` and `flask circuit reset`: the circuits of this machine's instances."""

import json
import tempfile
import time
from pathlib import Path

import click

from app.operations.circuit_board import Board, boards
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

    instance = click.option(
        "--instance",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="The instance's folder; by default INSTANCE_FOLDER, or what is found here.",
    )

    @group.command("show")
    @instance
    @click.option("--json", "as_json", is_flag=True)
    def show(instance: Path | None, as_json: bool) -> None:
        """Print the state of each circuit: closed (in use), open (left alone), half-open."""
        found = _boards(settings, instance)
        if as_json:
            click.echo(json.dumps([_document(board) for board in found], indent=2))
            return
        for board in found:
            click.echo(f"instance {board.folder}")
            for worker in board.workers():
                states = "  ".join(f"{name}: {state}" for name, state in worker.circuits.items())
                note = "" if worker.alive else "  (says nothing any more: frozen?)"
                click.echo(f"  worker {worker.pid:<8} {states}{note}")

    @group.command("reset")
    @click.argument("names", nargs=-1, type=click.Choice(NAMES))
    @instance
    def reset(names: tuple[str, ...], instance: Path | None) -> None:
        """Close the circuits of all workers, at once: those to NAMES, or both."""
        found = _boards(settings, instance)
        if len(found) > 1:
            listed = "\n".join(f"  --instance {board.folder}" for board in found)
            raise click.ClickException(f"There are several instances here; choose:\n{listed}")
        _reset(found[0], names or NAMES)

    return group


def _reset(board: Board, names: tuple[str, ...]) -> None:
    """Asks, and waits until each worker has done it, or PATIENCE is over."""
    try:
        asked = board.reset(names)
    except OSError as why:
        raise click.ClickException(f"{board.folder} cannot be written: {why.strerror}.") from None
    deadline = time.monotonic() + PATIENCE
    while (late := _late(board, asked)) and time.monotonic() < deadline:
        time.sleep(0.05)
    done = [worker.pid for worker in board.workers() if worker.done == asked]
    click.echo(f"Closed: {', '.join(names)}; in {len(done)} workers of {board.folder}.")
    if late:
        listed = ", ".join(str(pid) for pid in late)
        raise click.ClickException(f"No answer from: {listed}. Frozen? They do it when they wake.")


def _late(board: Board, asked: str) -> list[int]:
    return [worker.pid for worker in board.workers() if worker.done != asked]


def _boards(settings: Settings, instance: Path | None) -> list[Board]:
    """The instances that are meant; a ClickException where there is none."""
    named = instance or (Path(settings.instance_folder) if settings.instance_folder else None)
    if named is None:
        found = boards(Path(place) for place in dict.fromkeys(PLACES))
    else:
        found = [board for board in [Board(named)] if board.workers()]
    if not found:
        where = str(named) if named else " and ".join(dict.fromkeys(PLACES))
        raise click.ClickException(
            f"No worker of a proxy is found in {where}. Run this on the proxy's machine or in its "
            "container, as its user; with INSTANCE_FOLDER, if the proxy has one."
        )
    return found


def _document(board: Board) -> dict[str, object]:
    return {
        "instance": str(board.folder),
        "workers": [
            {"pid": worker.pid, "alive": worker.alive, "circuits": worker.circuits}
            for worker in board.workers()
        ],
    }
