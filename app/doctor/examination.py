"""The whole examination, from DNS to a registered model: its stages in order."""

from collections.abc import Sequence
from typing import TextIO

from app.doctor import behind, door, hops, model, parts, way
from app.doctor.command_line import Options, redactor
from app.doctor.connection import Connection
from app.doctor.interruption import Interruption
from app.doctor.parts import Check
from app.doctor.steps import Steps
from app.doctor.wire import Wire

TITLE = "Hokusai MLflow proxy: doctor"


def examine(
    options: Options,
    inside: Sequence[Check] = (),
    writes: bool = True,
    large_mib: int = 0,
    out: TextIO | None = None,
) -> int:
    """Runs all stages and reports each step; returns the exit status, 0 if nothing is wrong.

    Args:
        inside: further checks, by someone who has the proxy's settings.
        writes: False makes nothing in MLflow.
        large_mib: size of a further artifact, in MiB; 0 for none.
        out: where the report goes; None is stdout.
    """
    steps = Steps(TITLE, options.facts(), redactor(options.key), options.json, out=out)
    wire = Wire(options)
    health, made = parts.Parts(wire), model.Model(wire)
    with Interruption(steps):
        _look(steps, Connection(wire, options), health, inside)
        if writes:
            model.run(steps, made, large_mib)
        parts.run_last(steps, health)
    if made.tried:
        model.clean_up(steps, made)
    return steps.finish()


def _look(
    steps: Steps, connection: Connection, health: parts.Parts, inside: Sequence[Check]
) -> None:
    """The stages that write nothing."""
    wire = connection.wire
    opened = door.Door(wire)
    way.run(steps, connection)
    parts.run(steps, health, inside)
    door.run(steps, opened)
    behind.run(steps, behind.Behind(wire, health, opened), connection)
    hops.run(steps, hops.Hops(wire))
