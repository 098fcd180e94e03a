"""What a check program needs: the deployment's address, the key, how long to wait.

The address comes from `--url` or MLFLOW_TRACKING_URI, the key from a file or the environment:
everyone who can list processes sees a key on a command line.
"""

import argparse
import base64
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import quote, urlsplit

from app.doctor.steps import EXIT_USAGE

PREFIXES = ("/api/mlflow", "/mlflow")  # the longer one first: it ends with the shorter
KEY_VARIABLES = ("HOKUSAI_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")


class Target(NamedTuple):
    """A deployment's address: `root` such as "https://host:8443" without a final slash, `prefix`
    one of `PREFIXES`; `added` if the given address had no prefix."""

    root: str
    prefix: str
    added: bool = False


class Options(argparse.Namespace):
    """`timeout` in seconds, `key_source` a variable's name, `ca_file` a path or "" for the usual
    authorities, `env_proxies` whether to use HTTP_PROXY and HTTPS_PROXY. Options of one program
    alone are attributes too."""

    target: Target
    key: str
    key_source: str
    timeout: float
    ca_file: str
    env_proxies: bool
    json: bool

    def facts(self) -> dict[str, str]:
        """The heading of a report; the key itself is not in it."""
        root, prefix, added = self.target
        note = {"note": f"{prefix} was added to the given address"} if added else {}
        return {"tracking URI": root + prefix, **note, "key": f"from {self.key_source}"}


class UsageError(argparse.ArgumentTypeError):
    """The program was called wrongly; the text is for the person who called it."""


def read_target(uri: str) -> Target:
    """A tracking URI, or a base to which /api/mlflow is added; raises UsageError for anything but
    an http address without a password or a query."""
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
    """The key, and where it comes from: a file, else a variable; raises UsageError if there is
    none, or if it cannot be a key."""
    names = [variable] if variable else KEY_VARIABLES
    source = next((name for name in names if environ.get(name, "").strip()), "")
    key = environ.get(source, "").strip()
    if file:
        key, source = _text_of(file), "a file"
    elif not source and variable:
        raise UsageError(f"The variable {variable} holds no key.")
    elif not source:
        others = " or ".join(KEY_VARIABLES[1:])
        raise UsageError(f"No API key: set {KEY_VARIABLES[0]} (or {others}), or give --key-file.")
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(
            f"The key from {source} is empty, or holds a space, a line break or a letter that no "
            "key has."
        )
    return key, source


def _text_of(file: str) -> str:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8", "replace")
    except OSError as error:
        raise UsageError(f"--key-file {file}: {error.strerror}.") from None
    return text.strip()


def redactor(key: str) -> Callable[[str], str]:
    """A function that hides the key in a text, also as Basic credential or URL-encoded."""
    basic = base64.b64encode(f"api-key:{key}".encode()).decode()
    forms = sorted({key, basic, quote(key, safe="")}, key=len, reverse=True)
    return partial(re.compile("|".join(map(re.escape, forms))).sub, "[key]")


# --- the options ---------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """The options that all programs have; `timeout` is the default in seconds."""

    def __init__(self, description: str, timeout: float, program: str | None = None) -> None:
        super().__init__(
            prog=program,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=f"By default, the key comes from {', else '.join(KEY_VARIABLES)}.",
        )
        add = self.add_argument
        address = "tracking URI or base of the deployment (default: MLFLOW_TRACKING_URI)"
        add("--url", "--uri", dest="target", type=read_target, metavar="URL", help=address)
        add(
            "--key-file", default="", metavar="PATH", help="file with the key; - for standard input"
        )
        add("--key-env", default="", metavar="NAME", help="variable with the key")
        waiting = "default: %(default)g"
        add("--timeout", type=seconds, default=timeout, metavar="SECONDS", help=waiting)
        trust = "certificate authorities to trust instead"
        add("--ca-file", type=existing, default="", metavar="PATH", help=trust)
        through = "go through HTTP_PROXY and HTTPS_PROXY"
        add("--use-env-proxies", dest="env_proxies", action="store_true", help=through)
        add("--json", action="store_true", help="print one JSON document instead of lines")

    def error(self, message: str) -> NoReturn:
        """Ends the process with one line, which shows no argument: it may be a key."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")

    def read(
        self,
        argv: Sequence[str] | None,
        environ: Mapping[str, str],
        packages: Sequence[str] = ("requests",),
    ) -> Options:
        """Reads the command line and the environment; ends the process with status 2 if that
        fails. `packages` are import names that the program requires."""
        uri = environ.get("MLFLOW_TRACKING_URI", "").strip()
        self.set_defaults(target=uri or None)
        options, unknown = self.parse_known_args(argv, Options())
        try:
            _refuse(unknown, packages)
            if not options.target:
                raise UsageError("No address: give --url, or set MLFLOW_TRACKING_URI.")
            options.key, options.key_source = read_key(environ, options.key_file, options.key_env)
        except UsageError as error:
            self.error(str(error))
        return options


def seconds(text: str) -> float:
    """A time to wait."""
    if not float(text) > 0:
        raise UsageError("must be more than 0 seconds.")
    return float(text)


def existing(text: str) -> str:
    """The path of a file."""
    if text and not Path(text).is_file():
        raise UsageError("names no file.")
    return text


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
