"""The whole examination, from DNS to a registered model: its stages in order."""

from collections.abc import Callable, Sequence

from app.doctor import connection, health, hops, mlflow, model
from app.doctor.command_line import Options, redactor
from app.doctor.steps import Steps, interruptible
from app.doctor.wire import Wire

Check = tuple[str, Callable[[], str]]


def examine(options: Options, inside: Sequence[Check], writes: bool, large_mib: int) -> int:
    """Runs all stages and reports each step; returns the exit status, 0 if nothing is wrong.

    `inside` are further checks with the proxy's settings. Unless it `writes`, nothing is made in
    MLflow. `large_mib` is the size of a further artifact, 0 for none.
    """
    title = "Hokusai MLflow proxy: doctor"
    steps = Steps(title, options.facts(), redactor(options.key), options.json)
    wire = Wire(options)
    said, made = health.Health(wire), model.Model(wire)
    with interruptible(steps):
        look(steps, wire, said, inside)
        hops.run(steps, hops.Hops(wire))
        if writes:
            model.run(steps, made, large_mib)
        health.run_last(steps, said)
    if made.tried:
        model.clean_up(steps, made)
    return steps.finish()


def look(steps: Steps, wire: Wire, said: health.Health, inside: Sequence[Check] = ()) -> None:
    """The stages up to MLflow, which write nothing."""
    connection.run(steps, connection.Connection(wire))
    health.run(steps, said)
    for name, check in inside:
        steps.run(name, check)
    mlflow.run(steps, mlflow.MLflow(wire, said))
