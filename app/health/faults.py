"""The one catalogue of faults: what can be wrong, and what to do about it (faults.tsv).

Health, `flask doctor` and the scripts report one fault in the same words. It imports nothing of
ours, so that the doctor runs on any machine.
"""

import errno
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Fault(NamedTuple):
    """`code` is stable: alerts and scripts may rely on it (docs/commands.md)."""

    code: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


def _read(file: Path) -> dict[str, Fault]:
    lines = file.read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return {key or code: Fault(code, message, remedy) for code, key, message, remedy in rows}


#: By key, or by code where the row has no key of its own.
FAULTS = _read(Path(__file__).with_name("faults.tsv"))


def fault(key: str, **values: object) -> Fault:
    """A row of the table with its braces filled in; KeyError for a missing row or value."""
    code, message, remedy = FAULTS[key]
    return Fault(code, message.format(**values), remedy.format(**values))


# --- no response ---------------------------------------------------------------------------------

#: A kind of exception, and the word for it. The first that fits: subclasses first.
NO_RESPONSE: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "dns"),
    (ConnectionRefusedError, "refused"),
    (ssl.SSLCertVerificationError, "certificate"),
    (ssl.SSLError, "no tls"),
    (ConnectionResetError, "broken off"),
    (BrokenPipeError, "broken off"),
)
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH)


def why_no_response(error: BaseException, was_sent: bool = False) -> str:
    """Why no response came: a key of the table without its `network.`. `was_sent`: the request was
    sent."""
    found = list(causes(error))
    names = " ".join(type(cause).__name__ for cause in found)
    if "LookupFailed" in names:  # app/upstream/names.py; a gaierror too
        return "name server"
    for kind, word in NO_RESPONSE:
        if any(isinstance(cause, kind) for cause in found):
            return word
    no_route = any(getattr(cause, "errno", None) in NO_ROUTE for cause in found)
    if was_sent and "ConnectTimeout" not in names and not no_route:
        return "silent" if "Timeout" in names else "broken off"
    return "no connection" if "Timeout" in names else "unreachable"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all behind it, the innermost last. urllib3 keeps some in `reason`, the
    MLflow SDK in `args`."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            reason = getattr(found, "reason", None)
            waiting += [*found.args, found.__context__, reason, found.__cause__]
