"""`flask doctor`: checks a deployment from outside, and from inside where it runs beside it.

The checks are in app/doctor/; inside.py adds those that need the proxy's settings.
"""

import sys
from pathlib import Path

import click

from config import Settings, caller


def doctor(settings: Settings) -> click.Command:
    """The command `doctor`."""

    @click.command("doctor")
    @click.option("--url", help=f"Tracking URI of the deployment [{caller.ADDRESS_VARIABLE}].")
    @click.option(
        "--key-file",
        type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
        help="A file that holds the API key; - for standard input.",
    )
    @click.option("--key-env", metavar="NAME", help="The variable that holds the API key.")
    @click.option("--timeout", default=20.0, metavar="SECONDS", help="For one request; default 20.")
    @click.option("--ca-file", type=click.Path(exists=True, dir_okay=False))
    @click.option("--large-mib", default=0, metavar="N", help="One more artifact, of N MiB.")
    @click.option("--read-only", is_flag=True, help="Make nothing in MLflow.")
    @click.option(
        "--inside/--outside",
        default=None,
        help="Whether to check Redis, the auth service and MLflow from here too, with the proxy's "
        "settings. By default if these are not the built-in ones.",
    )
    @click.option("--json", "as_json", is_flag=True, help="One JSON document, nothing else.")
    def command(
        url: str | None,
        key_file: Path | None,
        key_env: str | None,
        timeout: float,
        ca_file: str | None,
        large_mib: int,
        read_only: bool,
        inside: bool | None,
        as_json: bool,
    ) -> None:
        """Check every stage of a deployment, from DNS to a registered model.

        Each failure has an explanation, a remedy and the name of the fault. Everything made in
        MLflow is deleted again, also after Ctrl-C. Exit status: 0 all well, 1 a fault, 2 wrong
        usage.

        The key comes from --key-file, --key-env, HOKUSAI_API_KEY or MLFLOW_TRACKING_TOKEN, or is
        typed in.
        """
        # Imported here: the proxy itself does not need them.
        from app.commands import inside as beside
        from app.doctor.command_line import Options, UsageError, check_key, read_target
        from app.doctor.examination import examine

        address = url or caller.address()
        if not address:
            raise click.UsageError(f"No address: give --url, or set {caller.ADDRESS_VARIABLE}.")
        if not timeout > 0:
            raise click.UsageError("--timeout must be more than 0 seconds.")
        key, source = _key(key_file, key_env)
        try:
            check_key(key, source)
            target = read_target(address)
        except UsageError as why:
            raise click.UsageError(str(why)) from None
        options = Options(
            target=target,
            key=key,
            key_source=source,
            timeout=timeout,
            ca_file=ca_file or "",
            env_proxies=False,
            json=as_json,
        )
        wanted = _is_beside_the_proxy(settings) if inside is None else inside
        checks = beside.checks(settings) if wanted else ()
        sys.exit(examine(options, checks, not read_only, max(0, large_mib)))

    return command


def _key(file: Path | None, variable: str | None) -> tuple[str, str]:
    """(key, where it comes from)."""
    if file is not None:
        text = click.open_file(str(file), encoding="utf-8", errors="replace").read()
        return text.strip(), "standard input" if str(file) == "-" else "a file"
    if variable is not None:
        key, source = caller.key_from(variable)
        if not key:
            raise click.UsageError(f"The variable {variable} holds no key.")
        return key, source
    key, source = caller.key_from()
    if key:
        return key, source
    if not sys.stdin.isatty():
        names = " or ".join(caller.KEY_VARIABLES)
        raise click.UsageError(f"No API key: set {names}, or give --key-file or --key-env.")
    return click.prompt("API key", hide_input=True).strip(), "typed in"


def _is_beside_the_proxy(settings: Settings) -> bool:
    """Whether this environment has an address of one of the proxy's parts."""
    default, names = Settings(), ("mlflow_server_url", "auth_service_url", "redis_url")
    return any(getattr(settings, name) != getattr(default, name) for name in names)
