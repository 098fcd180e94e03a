"""What a check program needs: the deployment's address, the key, how long to wait.

The address comes from `--url` or MLFLOW_TRACKING_URI, the key from a file or the environment:
everyone who can list processes sees a key on a command line.
"""

import argparse
import base64
import getpass
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from app.doctor.steps import EXIT_USAGE

PREFIXES = ("/api/mlflow", "/mlflow")  # the longer one first: it ends with the shorter
KEY_VARIABLES = ("HOKUSAI_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")


@dataclass(frozen=True)
class Target:
    """A deployment's address: `root` such as "https://host:8443" without a final slash, `prefix`
    one of `PREFIXES`; `added` if the given address had no prefix."""

    root: str
    prefix: str
    added: bool = False

    @property
    def tls(self) -> bool:
        return self.root.startswith("https:")

    @property
    def host(self) -> str:
        return urlsplit(self.root).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.root).port or (443 if self.tls else 80)

    @property
    def tracking_uri(self) -> str:
        return self.root + self.prefix


@dataclass(frozen=True, kw_only=True)
class Options:
    """`timeout` in seconds, `key_source` a variable's name, `ca_file` a path or "" for the usual
    authorities, `env_proxies` whether to use HTTP_PROXY and HTTPS_PROXY."""

    target: Target
    key: str = field(repr=False)
    key_source: str
    timeout: float
    ca_file: str
    env_proxies: bool
    json: bool

    def facts(self) -> dict[str, str]:
        """The heading of a report; the key itself is not in it."""
        note = {"note": f"{self.target.prefix} was added to the given address"}
        return {
            "tracking URI": self.target.tracking_uri,
            **(note if self.target.added else {}),
            "key": f"from {self.key_source}",
        }


class UsageError(Exception):
    """The program was called wrongly; the text is for the person who called it."""


def read_target(uri: str) -> Target:
    """A tracking URI, or a base to which /api/mlflow is added.

    Raises:
        UsageError: not an http address, or one with a password or a query.
    """
    parts = urlsplit(uri.strip().rstrip("/"))
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "The URI must not hold a user, a password or a query. A key there works with MLflow's "
            "client, but the client prints the URI, with the key, in its 'View run' line. Set "
            "MLFLOW_TRACKING_TOKEN instead, and replace a key that was printed."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("The URI must begin with http:// or https:// and name a host.")
    try:
        _ = parts.port
    except ValueError:
        raise UsageError("The URI's port is not a number between 0 and 65535.") from None
    base = f"{parts.scheme}://{parts.netloc}{parts.path}"
    for prefix in PREFIXES:
        if base.endswith(prefix):
            return Target(base.removesuffix(prefix), prefix)
    return Target(base, PREFIXES[0], added=True)


def read_key(environ: Mapping[str, str], file: str = "", variable: str = "") -> tuple[str, str]:
    """The key, and where it comes from: a file, else a variable, else the keyboard.

    Raises:
        UsageError: there is none, or it cannot be a key.
    """
    names = [variable] if variable else KEY_VARIABLES
    found = [(environ[name].strip(), name) for name in names if environ.get(name, "").strip()]
    if file:
        found = [_read_file(file)]
    if variable and not found:
        raise UsageError(f"The variable {variable} holds no key.")
    if not found and sys.stdin.isatty():
        found = [(getpass.getpass("API key: ").strip(), "the keyboard")]
    if not found:
        others = " or ".join(KEY_VARIABLES[1:])
        raise UsageError(f"No API key: set {KEY_VARIABLES[0]} (or {others}), or give --key-file.")
    key, source = found[0]
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(
            f"The key from {source} is empty, or holds a space, a line break or a letter that no "
            "key has."
        )
    return key, source


def _read_file(file: str) -> tuple[str, str]:
    if file == "-":
        return sys.stdin.read().strip(), "standard input"
    try:
        return Path(file).read_text("utf-8", "replace").strip(), "a file"
    except OSError as error:
        raise UsageError(f"--key-file {file}: {error.strerror}.") from None


def redactor(key: str) -> Callable[[str], str]:
    """A function that hides the key in a text, also as Basic credential or URL-encoded."""
    basic = base64.b64encode(f"api-key:{key}".encode()).decode()
    forms = sorted({key, basic, quote(key, safe="")}, key=len, reverse=True)

    def redact(text: str) -> str:
        for form in forms:
            text = text.replace(form, "[key]")
        return text

    return redact


# --- the options ---------------------------------------------------------------------------------


def make_parser(
    description: str, timeout: float, program: str | None = None
) -> argparse.ArgumentParser:
    """The common options; `timeout` is the default in seconds."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"By default, the key comes from {', else '.join(KEY_VARIABLES)}.",
    )
    add = parser.add_argument
    address = "tracking URI or base of the deployment (default: MLFLOW_TRACKING_URI)"
    add("--url", "--uri", help=address)
    add("--key-file", default="", metavar="PATH", help="file with the key; - for standard input")
    add("--key-env", default="", metavar="NAME", help="variable with the key")
    add("--timeout", type=float, default=timeout, metavar="SECONDS", help="default: %(default)g")
    add("--ca-file", default="", metavar="PATH", help="certificate authorities to trust instead")
    add("--use-env-proxies", action="store_true", help="go through HTTP_PROXY and HTTPS_PROXY")
    add("--json", action="store_true", help="print one JSON document instead of lines")
    return parser


def parse(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    environ: Mapping[str, str],
    packages: Sequence[str] = ("requests",),
) -> tuple[Options, argparse.Namespace]:
    """Reads the command line and the environment; ends the process with status 2 if that fails.

    Args:
        packages: import names that the script requires.
    """
    arguments, unknown = parser.parse_known_args(argv)
    try:
        _refuse(unknown, packages)
        return _options(arguments, environ), arguments
    except UsageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def _options(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Options:
    url = arguments.url or environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not url:
        raise UsageError("No address: give --url, or set MLFLOW_TRACKING_URI.")
    if not arguments.timeout > 0:
        raise UsageError("--timeout must be more than 0 seconds.")
    if arguments.ca_file and not os.path.isfile(arguments.ca_file):
        raise UsageError("--ca-file names no file.")
    key, source = read_key(environ, arguments.key_file, arguments.key_env)
    return Options(
        target=read_target(url),
        key=key,
        key_source=source,
        timeout=arguments.timeout,
        ca_file=arguments.ca_file and os.path.abspath(arguments.ca_file),
        env_proxies=arguments.use_env_proxies,
        json=arguments.json,
    )


def _refuse(unknown: Sequence[str], packages: Sequence[str]) -> None:
    """Names unknown options without their values, which may be a key; and missing packages."""
    if unknown:
        names = [word.split("=")[0] for word in unknown if word.startswith("--")]
        what = f"Unknown: {', '.join(names)}." if names else "There is an argument too many."
        raise UsageError(f"{what} A key is not given here but in {KEY_VARIABLES[0]}. See --help.")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        wanted = " ".join("mlflow-skinny" if name == "mlflow" else name for name in missing)
        raise UsageError(f"Not installed here: python3 -m pip install {wanted}")
