"""The whole examination, from DNS to a registered model: its stages in order."""

from collections.abc import Sequence
from typing import TextIO

from app.doctor import connection, hops, mlflow, model, parts
from app.doctor.command_line import Options, redactor
from app.doctor.steps import Interruption, Steps
from app.doctor.wire import Wire


def examine(
    options: Options,
    inside: Sequence[parts.Check] = (),
    writes: bool = True,
    large_mib: int = 0,
    out: TextIO | None = None,
) -> int:
    """Runs all stages and reports each step; returns the exit status, 0 if nothing is wrong.

    Args:
        inside: further checks, with the proxy's settings.
        writes: False makes nothing in MLflow.
        large_mib: size of a further artifact, in MiB; 0 for none.
        out: where the report goes; None is stdout.
    """
    title = "Hokusai MLflow proxy: doctor"
    steps = Steps(title, options.facts(), redactor(options.key), options.json, out=out)
    wire = Wire(options)
    health, made = parts.Parts(wire), model.Model(wire)
    with Interruption(steps):
        look(steps, wire, health, inside)
        hops.run(steps, hops.Hops(wire))
        if writes:
            model.run(steps, made, large_mib)
        parts.run_last(steps, health)
    if made.tried:
        model.clean_up(steps, made)
    return steps.finish()


def look(steps: Steps, wire: Wire, health: parts.Parts, inside: Sequence[parts.Check] = ()) -> None:
    """The stages up to MLflow, which write nothing."""
    reached = connection.Connection(wire)
    connection.run(steps, reached)
    parts.run(steps, health, inside)
    connection.run_key(steps, reached)
    mlflow.run(steps, mlflow.MLflow(wire, reached))
