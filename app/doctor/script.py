"""What the programs in scripts/ share: from the command line to the exit status."""

from collections.abc import Callable, Mapping

from app.doctor.command_line import Options, make_parser, parse, redactor
from app.doctor.steps import Interruption, Steps


def main(
    description: str,
    title: str,
    check: Callable[[Steps, Options], None],
    environ: Mapping[str, str],
) -> int:
    """Run the steps of `check`; return the exit status."""
    options, _ = parse(make_parser(description, timeout=10), None, environ)
    title = f"Hokusai MLflow proxy: {title}"
    steps = Steps(title, options.facts(), redactor(options.key), options.json)
    with Interruption(steps):
        check(steps, options)
    return steps.finish()
