"""Artifacts of the registration check: up, seen in the list, down again, the same to the byte."""

import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from app.doctor import explain
from app.doctor.steps import Failed
from app.doctor.wire import Wire, credential

FOLDER = "check"
# What the SDK itself sends correctly. It puts names into an address unquoted, so `#` and `?` do
# not survive it, with or without a proxy (3.17.2): those go over REST.
AWKWARD = "naïve 模型 100% done.txt"
AWKWARD_FOR_REST = "50% done? a+b & c.txt"
FORBIDDEN = "report #1.txt"  # MLflow refuses `#`; a hop that cuts the name there hides that
ROUTE = "/api/2.0/mlflow-artifacts/artifacts/"
MIB = 1024 * 1024

#: What becomes another name: the SDK does not encode names, and MLflow decodes them.
_CHANGED = re.compile(r"[#?\\\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}|//|(?:^|/)\.{1,2}(?:/|$)")


def name_problem(name: str) -> str | None:
    """Why an artifact would get another name with the SDK, or none; None if it would not."""
    found = _CHANGED.search(name)
    if found is None:
        return None
    return f"{found[0]!r} in an artifact's name: the SDK sends names unencoded; take another name."


@dataclass(frozen=True)
class Artifacts:
    """Artifacts of one run; `scratch` is an empty local folder, `uri` the run's artifact_uri."""

    client: Any
    wire: Wire
    run_id: str
    uri: str
    scratch: Path

    def round_trip(self, name: str, size: int) -> str:
        """Send a file of random bytes with the SDK and compare what comes back.

        Args:
            name: the file's name.
            size: its length in bytes.
        """
        content = os.urandom(size)
        if problem := name_problem(name):
            raise Failed(problem)
        source = self.scratch / name
        source.write_bytes(content)
        started = time.perf_counter()
        self.client.log_artifact(self.run_id, str(source), FOLDER)
        uploaded = time.perf_counter()
        self._listed(name, size)
        asked = time.perf_counter()
        path = self.client.download_artifacts(
            self.run_id, f"{FOLDER}/{name}", str(self._folder(f"down-{name}"))
        )
        took = time.perf_counter() - asked
        compare(name, content, Path(path).read_bytes())
        return f"{describe(size)}, up {uploaded - started:.2f} s, down {took:.2f} s, same checksum"

    def round_trip_over_rest(self, name: str) -> str:
        """The same with a correctly encoded address, for names that the SDK garbles."""
        content = name.encode()
        sent = self._over_rest("PUT", name, content)
        if sent.status != 200:
            raise explain.response(sent, "200")
        got = self._over_rest("GET", name)
        if got.status != 200:
            raise explain.response(got, "200")
        compare(name, content, got.body)
        self._listed(name, len(content))
        return f"{describe(len(content))}, same checksum"

    def forbidden_name(self, name: str) -> str:
        """A name that MLflow does not take is refused by MLflow, not shortened by a hop."""
        sent = self._over_rest("PUT", name, name.encode())
        code = (sent.document() or {}).get("error_code")
        if sent.status == 400 and code == "INVALID_PARAMETER_VALUE":
            return "refused by MLflow itself, in its own words"
        if sent.status != 200:
            raise explain.response(sent, "200 or MLflow's own 400")
        return self.round_trip_over_rest(name)

    def _over_rest(self, method: str, name: str, content: bytes | None = None) -> explain.Response:
        root = urlsplit(self.uri).path.strip("/")
        path = f"{self.wire.target.prefix}{ROUTE}{quote(f'{root}/{FOLDER}')}/{quote(name, safe='')}"
        return self.wire.send(method, path, credential(self.wire.options.key), data=content)

    def _listed(self, name: str, size: int) -> None:
        files = self.client.list_artifacts(self.run_id, FOLDER)
        found = {file.path: file.file_size or 0 for file in files}
        wanted = f"{FOLDER}/{name}"
        if wanted not in found:
            raise Failed(
                f"«{wanted}» was sent but is not in the list ({', '.join(sorted(found))}).",
                "A hop re-encodes the path, or the store lost the file.",
            )
        if found[wanted] != size:
            raise Failed(
                f"«{wanted}» has {found[wanted]} bytes in the store instead of {size}.",
                "A hop loses bodies or cuts them: look for one that drops Content-Length.",
            )

    def _folder(self, name: str) -> Path:
        folder = self.scratch / name
        folder.mkdir()
        return folder


def compare(name: str, sent: bytes, got: bytes) -> None:
    """Raises Failed if two contents have different SHA-256 sums."""
    if hashlib.sha256(sent).digest() != hashlib.sha256(got).digest():
        raise Failed(
            f"«{name}» came back different: {len(got)} bytes instead of {len(sent)}.",
            "The transfer was cut or changed on the way and looked complete: do not use this path.",
        )


def describe(size: int) -> str:
    return f"{size / MIB:.0f} MiB" if size >= MIB else f"{size} bytes"
