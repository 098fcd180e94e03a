"""The Dockerfile without an engine: what it says, and a build of one of its images in a folder.

A build runs every RUN as it stands, on this machine: absolute paths are moved into the folder, the
base image is this machine's Python, and COPY takes only what .dockerignore lets through.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Instruction:
    """One line of the Dockerfile, joined: `COPY`, `--from=packages /opt/venv /opt/venv`."""

    name: str
    value: str

    @property
    def flags(self) -> dict[str, str]:
        """What stands before the arguments, such as --from=packages."""
        found = [word[2:].partition("=") for word in self.value.split() if word[:2] == "--"]
        return {name: value for name, _, value in found}

    @property
    def words(self) -> list[str]:
        """The arguments: of the exec form the words of its list, else what stands between spaces.
        ValueError for a command in shell form."""
        rest = re.sub(r"^(--\S+\s+)+", "", self.value)
        rest = rest.removeprefix("CMD ") if self.name == "HEALTHCHECK" else rest
        if rest.startswith("["):
            words: list[str] = json.loads(rest)
            return words
        if self.name in ("RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK"):
            raise ValueError(f"{self.name} {rest} would go through a shell")
        return shlex.split(rest)

    @property
    def pairs(self) -> dict[str, str]:
        """The variables of an ENV, the labels of a LABEL."""
        return dict(word.split("=", 1) for word in shlex.split(self.value))


@dataclass
class Stage:
    """A stage of the build: its name, what it begins with, and what follows."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


def stages(dockerfile: Path = ROOT / "Dockerfile") -> dict[str, Stage]:
    """The stages by name, in the order of the file. Every one has a name."""
    with dockerfile.open("rb") as file:
        written = DockerfileParser(fileobj=file).structure
    found: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    for line in written:
        instruction = Instruction(line["instruction"], line["value"])
        if instruction.name == "COMMENT":
            continue
        if instruction.name == "FROM":
            base, _, name = re.split(r"\s+(as|AS)\s+", instruction.value)
            found[name] = Stage(name, arguments.get(base.strip("${}"), base))
        elif not found:
            name, _, default = instruction.value.partition("=")
            arguments[name] = default
        else:
            [*found.values()][-1].instructions.append(instruction)
    return found


def lines(name: str) -> list[Instruction]:
    """All instructions that make an image, those of the stages below it first."""
    known = stages()
    stage = known[name]
    below = lines(stage.base) if stage.base in known else []
    return [*below, *stage.instructions]


def last(instructions: list[Instruction], name: str) -> Instruction:
    """The one that counts where several may stand."""
    return [one for one in instructions if one.name == name][-1]


def environment(instructions: list[Instruction]) -> dict[str, str]:
    """What ENV sets."""
    return {k: v for one in instructions if one.name == "ENV" for k, v in one.pairs.items()}


def context(root: Path = ROOT) -> set[str]:
    """The files that a build is given, by the rules of .dockerignore."""
    patterns = (root / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line.strip() for line in patterns if line.strip() and line[0] != "#"]
    paths = exclude_paths(str(root), rules)
    # The engine's own files are always sent, and never copied but by name.
    return {path for path in paths if (root / path).is_file()} - {"Dockerfile", ".dockerignore"}


@dataclass(frozen=True)
class Image:
    """What a build made of a stage: its file system above the base image's, which is this
    machine's, and where `python` and `pip` are, as the base image has them."""

    root: Path
    base: Path

    def here(self, word: str) -> str:
        """A word of a command with its absolute path moved into the image."""
        return f"{self.root}{word}" if word.startswith("/") else word

    def path(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The image's PATH on this machine, and where Python's shared library is."""
        entries = variables.get("PATH", "").split(":")
        own = [self.here(entry) for entry in entries if entry.startswith("/opt/")]
        path = ":".join([*own, str(self.base / "bin"), "/usr/bin", "/bin"])
        return {"PATH": path, "LD_LIBRARY_PATH": str(self.base / "lib")}


class Build:
    """A build in a folder. Every stage is made at one place and then moved aside, so that programs
    find their environment where it was when they were installed."""

    def __init__(self, folder: Path, registry: Mapping[str, str]) -> None:
        """`registry` is added to the environment of each RUN: where pip finds packages here."""
        self._folder = folder
        self._registry = registry
        self._now = Image(folder / "root", folder / "base")
        copy_python(folder / "base")

    def image(self, name: str, stays: bool = False) -> Image:
        """A stage, made; one that `stays` is where it was made, and must be the last."""
        for needed in _needs(stages()[name]):
            if needed in stages() and not (self._folder / needed).exists():
                self.image(needed)
        self._make(stages()[name])
        if stays:
            return self._now
        self._now.root.rename(self._folder / name)
        return Image(self._folder / name, self._now.base)

    def _make(self, stage: Stage) -> None:
        self._now.root.mkdir()
        if stage.base in stages():
            _copy_tree(self._folder / stage.base, self._now.root)
        for instruction in stage.instructions:
            self._do(instruction, environment(lines(stage.name)))

    def _do(self, instruction: Instruction, variables: Mapping[str, str]) -> None:
        if instruction.name == "WORKDIR":
            Path(self._now.here(instruction.value)).mkdir(parents=True, exist_ok=True)
        elif instruction.name == "COPY":
            self._copy(instruction)
        elif instruction.name == "RUN":
            self._run([self._now.here(word) for word in instruction.words], variables)
        elif instruction.name not in PASSIVE:
            raise ValueError(f"{instruction.name}: not known here")

    def _copy(self, instruction: Instruction) -> None:
        *sources, target = instruction.words
        destination = Path(self._now.here(target))
        for source in self._sources(sources, instruction.flags.get("from")):
            to = destination / source.name if target.endswith("/") else destination
            to.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                _copy_tree(source, to)
            else:
                shutil.copy2(source, to)
        if owner := instruction.flags.get("chown"):
            os.chown(destination, *map(int, owner.split(":")))

    def _sources(self, sources: list[str], stage: str | None) -> Iterator[Path]:
        """What is copied: out of another stage, or out of the context, file by file."""
        for source in sources:
            if stage:
                yield Path(f"{self._folder / stage}{source}")
                continue
            given = sorted(p for p in context() if p == source or p.startswith(f"{source}/"))
            if not given:
                raise ValueError(f"COPY {source}: .dockerignore keeps it out")
            for path in given:
                copy = self._folder / "context" / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, copy)
            yield self._folder / "context" / source

    def _run(self, command: list[str], variables: Mapping[str, str]) -> None:
        given = {**variables, **self._registry, **self._now.path(variables)}
        done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise AssertionError(f"RUN {command}\n{done.stdout}\n{done.stderr}")


def copy_python(into: Path) -> None:
    """This machine's Python, and a pip, to where any user may run them: they often stand in
    somebody's home folder. A copied Python finds its library by itself."""
    name, prefix = f"python3.{sys.version_info.minor}", Path(sys.base_prefix)
    left_out = shutil.ignore_patterns("*-packages", "test", "tests", "idlelib", "config-*")
    shutil.copytree(prefix / "lib" / name, into / "lib" / name, ignore=left_out)
    for shared in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(shared, into / "lib")
    (into / "bin").mkdir()
    shutil.copy2(prefix / "bin" / name, into / "bin" / "python")
    (into / "bin" / "pip").write_text(f'#!/bin/sh\nexec {sys.executable} -m pip "$@"\n')
    (into / "bin" / "pip").chmod(0o755)


def _copy_tree(source: Path, to: Path) -> None:
    """By links: nothing is changed in place afterwards."""
    shutil.copytree(source, to, symlinks=True, dirs_exist_ok=True, copy_function=os.link)


#: What changes no file.
PASSIVE = {"ENV", "USER", "VOLUME", "STOPSIGNAL", "LABEL", "ARG", "EXPOSE", "HEALTHCHECK", "CMD"}


def _needs(stage: Stage) -> Iterator[str]:
    yield stage.base
    for one in stage.instructions:
        if one.name == "COPY" and "from" in one.flags:
            yield one.flags["from"]
