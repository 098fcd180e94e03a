"""Artifact names: decoded as MLflow decodes them, refused if MLflow would leave the folder.

MLflow's file routes decode a name again after the server has decoded it: until nothing changes, at
most ten times, each time through urlparse (mlflow/utils/uri.py, `validate_path_is_safe`). This
module does the same, so a name is judged by what MLflow makes of it, and no deeper: `%17` in a name
is text to MLflow, `%252e%252e` is a parent folder. On its other routes MLflow decodes once.
"""

import re
from pathlib import PureWindowsPath
from urllib.parse import unquote, urlparse, urlunparse

from app.request.errors import InvalidName

#: How often MLflow decodes a name before it gives up, with a 500.
DECODINGS = 10

#: MLflow's paths with a file name at the end, decoded once.
_FILES = re.compile(
    r"/(?:ajax-)?api/[0-9.]+/mlflow-artifacts/(?:artifacts|presigned|mpu/[a-z]+)/(?P<name>.*)",
    re.DOTALL,
)


def artifact_name(decoded_path: str) -> str | None:
    """The file name in a path that is decoded once; None on a route without one."""
    found = _FILES.fullmatch(decoded_path)
    return found["name"] if found else None


def check_artifact_name(name: str) -> None:
    """Raise InvalidName for a name, decoded once, that leaves its folder as MLflow reads it.

    In one point stricter than MLflow on Linux: `\\` is a separator too, so `a\\..\\b` is refused.
    """
    read = _as_mlflow_reads_it(name)
    if (
        "\0" in read
        or ".." in re.split(r"[/\\]", read)
        or read.startswith("/")
        or PureWindowsPath(read).is_absolute()
    ):
        raise InvalidName(
            "Invalid path: an artifact's name must be relative and must not contain '..', a NUL or "
            "a drive after MLflow decodes it (it decodes a name until nothing changes)."
        )


def segments(name: str) -> list[str]:
    """The folders and the file of a checked name, decoded once, as MLflow reads them."""
    return [segment for segment in _as_mlflow_reads_it(name).split("/") if segment not in ("", ".")]


def _as_mlflow_reads_it(name: str) -> str:
    """Decode a name as MLflow does. Raises InvalidName."""
    try:
        read = _decoded(name)
        if (parsed := urlparse(read)).scheme == "file":
            return unquote(parsed.path)
    except ValueError:  # urlparse reads `//[` as the start of an IPv6 address
        raise InvalidName("Invalid path: MLflow cannot read this artifact's name.") from None
    return read.replace("\0", "%00")  # MLflow escapes control characters again


def _decoded(name: str) -> str:
    for _ in range(DECODINGS):
        decoded = urlunparse(urlparse(unquote(name)))
        if decoded == name:
            return name
        name = decoded
    raise InvalidName("Invalid path: the artifact's name is percent-encoded too many times.")
