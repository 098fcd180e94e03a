"""Running terraform: offline, with an environment built from nothing, on a scratch copy.

The provider comes from a folder on this machine (a mirror, as `terraform providers mirror` makes
one), and no call leaves it: the credentials are inventions, and the endpoint refuses.
"""

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.infrastructure.deployment import INFRASTRUCTURE, Resource

PROVIDER = "hashicorp/aws"
CONFIG = """\
disable_checkpoint = true

provider_installation {
  filesystem_mirror {
    path = "%s"
  }
}
"""
#: Nobody listens there; nothing should ask.
NOWHERE = "http://127.0.0.1:9"
#: What an operator keeps beside the module, and what terraform writes there; .gitignore has it too.
OPERATORS = (
    ".terraform*",
    "*.tfstate*",
    "terraform.tfvars",
    "*.account.tfvars",
    "*.tfbackend",
    "plan",
)


class Missing(Exception):
    """Terraform, or its provider, is not on this machine; the message says where it was looked
    for."""


@dataclass(frozen=True)
class Outcome:
    """What came of one `run` block: pass, fail, error or skip; what was said; what there would be.
    The state is None where none was made."""

    status: str
    said: str
    state: dict[str, Any] | None = field(repr=False)

    def resources(self) -> Iterator[Resource]:
        """The resources of the state, those of all modules."""
        assert self.state is not None, self.said
        yield from _resources(self.state["root_module"])


class Terraform:
    """The program, its configuration, and a folder for what it writes."""

    def __init__(self, program: str, mirror: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        (folder / "cli.tfrc").write_text(CONFIG % mirror, "utf-8")

    def run(
        self, where: Path, *arguments: str, endpoint: str = NOWHERE, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """One command in a folder; `endpoint` answers in AWS's place. An AssertionError with all
        that was said where it fails, unless `check` is False."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder),
            "TF_CLI_CONFIG_FILE": str(self._folder / "cli.tfrc"),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
            "GOGC": "400",  # 1 GB instead of 0.5, for a fifth less CPU
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "invented",
            "AWS_SECRET_ACCESS_KEY": "invented",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
        }
        finished = subprocess.run(
            [self._program, *arguments],
            cwd=where,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        said = f"terraform {' '.join(arguments)}:\n{finished.stdout[-8000:]}\n{finished.stderr}"
        assert not check or finished.returncode == 0, said
        return finished

    def init(self, where: Path) -> None:
        """Prepares a folder, without a backend."""
        self.run(where, "init", "-backend=false", "-no-color")

    def test(self, where: Path, *options: str) -> dict[str, Outcome]:
        """Every `run` block by its name, with the state that it left."""
        finished = self.run(where, "test", "-json", "-verbose", *options, check=False)
        return _outcomes(finished.stdout.splitlines(), finished.stderr)


def _outcomes(lines: Iterable[str], errors: str) -> dict[str, Outcome]:
    """Out of the lines of `terraform test -json -verbose`. A state is worth 14 MB, most of it the
    provider's description, so plans are not even parsed."""
    status: dict[str, str] = {}
    said: dict[str, list[str]] = {}
    states: dict[str, dict[str, Any]] = {}
    for line in lines:
        if '"type":"test_plan"' in line[-300:]:
            continue
        message = json.loads(line)
        run = message.get("@testrun", "")
        if message["type"] == "test_run" and "status" in message["test_run"]:
            status[run] = message["test_run"]["status"]
        elif message["type"] == "test_state":
            states[run] = {"root_module": message["test_state"]["root_module"]}
        elif message["type"] == "diagnostic" and message["diagnostic"]["severity"] == "error":
            parts = (message["diagnostic"]["summary"], message["diagnostic"].get("detail", ""))
            said.setdefault(run, []).append(": ".join(parts))
    assert status, f"no test was run: {said} {errors}"
    return {
        run: Outcome(how, "\n".join(said.get(run, [])), states.get(run))
        for run, how in status.items()
    }


def _resources(module: dict[str, Any]) -> Iterator[Resource]:
    for found in module.get("resources", []):
        if found["mode"] == "managed":
            yield Resource(found["type"], found["name"], found["address"], found["values"])
    for child in module.get("child_modules", []):
        yield from _resources(child)


def scratch_copy(destination: Path) -> Path:
    """A copy of `infrastructure/`, without what an operator or terraform may have left there."""
    shutil.copytree(INFRASTRUCTURE, destination, ignore=shutil.ignore_patterns(*OPERATORS))
    return destination


# --- what is on this machine --------------------------------------------------------------------


def find(environment: Mapping[str, str], folder: Path) -> Terraform:
    """Terraform with a provider, as a person with this environment would get them.

    Raises Missing.
    """
    program = shutil.which("terraform", path=environment.get("PATH"))
    if not program:
        raise Missing("terraform is not on the PATH")
    looked = [*_places(environment)]
    for place in looked:
        if _holds_the_provider(place):
            return Terraform(program, place, folder)
    raise Missing(
        f"no folder holds the provider {PROVIDER}; name one by TF_PLUGIN_DIR (looked into: "
        f"{', '.join(map(str, looked))})"
    )


def _places(environment: Mapping[str, str]) -> Iterator[Path]:
    """Where a mirror or a cache may be: named by the environment, by the CLI's configuration, in
    the CLI's own places, or where machines keep software."""
    home = Path(environment.get("HOME", "/nonexistent"))
    for name in ("TF_PLUGIN_DIR", "TF_PLUGIN_CACHE_DIR"):
        if environment.get(name):
            yield Path(environment[name])
    for configuration in (environment.get("TF_CLI_CONFIG_FILE"), home / ".terraformrc"):
        if configuration and Path(configuration).is_file():
            text = Path(configuration).read_text("utf-8")
            found = re.findall(r'^\s*(?:path|plugin_cache_dir)\s*=\s*"([^"]+)"', text, re.MULTILINE)
            yield from (Path(path).expanduser() for path in found)
    data = [environment.get("XDG_DATA_HOME") or home / ".local/share"]
    data += (environment.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    yield home / ".terraform.d/plugins"
    yield from (Path(folder) / "terraform/plugins" for folder in data)
    for shelf in ("/opt", "/srv", "/usr/local/lib", "/usr/lib"):
        yield from sorted(Path(shelf).glob("*terraform*"))
        yield from sorted(Path(shelf).glob("*tf*plugin*"))


def _holds_the_provider(mirror: Path) -> bool:
    """Whether it lies there for this machine, unpacked or packed."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    system = f"{platform.system().lower()}_{machine}"
    patterns = (
        f"*/{PROVIDER}/5.*/{system}/terraform-provider-aws_v5*",
        f"*/{PROVIDER}/terraform-provider-aws_5.*_{system}.zip",
    )
    return any(next(mirror.glob(pattern), None) for pattern in patterns)
