"""What never imports what, and where each thing stands: the rules of the house."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP = {"wsgi.py", "gunicorn.conf.py"}
PATHS = [ROOT / name for name in TOP] + [
    path for folder in ("app", "config", "server") for path in (ROOT / folder).rglob("*.py")
]
FILES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in PATHS}
MODULES = {
    file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES
}
APP = {file for file in FILES if file.startswith("app/")}
SERVER = {file for file in FILES if file.startswith("server/")}
BROWSER = {file for file in FILES if file.startswith("app/browser/")}
OPERATIONS = {file for file in FILES if file.startswith("app/operations/")}
MOUNTING = {"app/operations/mounting.py", "app/browser/mounting.py"}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def imported_by(file: str) -> Iterator[str]:
    """The full names of the modules that a file imports, at its top or anywhere else."""
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def importers_of(*packages: str) -> set[str]:
    """The files that import one of these packages, or something out of them."""
    wanted = tuple(f"{package}." for package in packages)
    return {file for file in FILES if any(f"{n}.".startswith(wanted) for n in imported_by(file))}


def reached_from(file: str) -> set[str]:
    """A file and all files that it imports, directly or not."""
    reached, waiting = set(), [file]
    while waiting:
        here = waiting.pop()
        reached.add(here)
        waiting += {MODULES[n] for n in imported_by(here) if n in MODULES} - reached
    return reached


def public(parent: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Classes, functions and methods; what stands inside a function is its own affair."""
    for node in parent.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


@pytest.mark.parametrize(
    ("packages", "allowed"),
    [
        ("requests", {"app/auth_service.py"}),
        (  # responses names one of its types
            "urllib3",
            {
                f"app/{name}.py"
                for name in (
                    "auth_service",
                    "forwarding",
                    "connection",
                    "response_head",
                    "streaming",
                    "responses",
                    "upstream_answers",
                )
            },
        ),
        ("http.client urllib.request httpx", {"app/connection.py", "app/response_head.py"}),
        (
            "redis",
            {
                f"app/redis_{name}.py"
                for name in ("client", "connection", "faults", "link", "rights")
            },
        ),
        ("limits flask_limiter", {"app/limits.py", "app/windows.py", "app/instance_store.py"}),
        ("sqlite3", {"app/instance_store.py", "app/instance_file.py"}),
        ("pybreaker", {"app/circuit.py"}),
        ("gunicorn gevent", SERVER),
        ("app", {"wsgi.py"} | APP),
        ("app.operations", {"app/__init__.py", *MOUNTING} | OPERATIONS),
        ("app.browser", {"app/__init__.py"} | BROWSER),
        ("app.proxy", {"app/__init__.py", *MOUNTING}),
        (  # both sides use the folders and files that an instance's processes share
            "server",
            {"app/condition_metrics.py", "app/metrics.py"}
            | {"app/instance_file.py", "app/single_flight.py"}
            | {"gunicorn.conf.py"}
            | SERVER,
        ),
    ],
)
def test_these_are_imported_nowhere_else(packages: str, allowed: set[str]) -> None:
    assert importers_of(*packages.split()) <= allowed


@pytest.mark.parametrize("module", ["errors", "metrics", "version"])
def test_the_ground_floor_imports_nothing_of_ours(module: str) -> None:
    shared = {"server/metric_file.py", "server/folders.py"} if module == "metrics" else set()
    assert reached_from(f"app/{module}.py") == {f"app/{module}.py"} | shared


@pytest.mark.parametrize("module", ["authorization", "circuit", "route_table", "principal"])
def test_what_only_decides_knows_neither_flask_nor_a_socket(module: str) -> None:
    transports = importers_of("flask", "werkzeug", "socket", "http.client", "requests", "urllib3")
    assert not reached_from(f"app/{module}.py") & transports


def test_parts_come_from_their_own_files_not_from_the_package() -> None:
    froms = {
        f: [n.module for n in ast.walk(FILES[f]) if isinstance(n, ast.ImportFrom)] for f in APP
    }
    package = {file for file, modules in froms.items() if "app" in modules or None in modules}
    assert package == {"app/__init__.py", "app/forwarding.py"}  # the latter renames `circuit`


def test_no_arrow_runs_up_and_there_is_no_circle() -> None:
    """A CycleError shows the circle."""
    graph = {file: {MODULES[n] for n in imported_by(file) if n in MODULES} for file in APP}
    assert [*TopologicalSorter(graph).static_order()][-1] == "app/__init__.py"


def test_the_environment_is_read_in_config_only_and_handed_over_at_the_top() -> None:
    reading = re.compile(r"\bos\.(environb?|getenvb?|putenv)\b|\bfrom os import")
    readers = {file for file, tree in FILES.items() if reading.search(ast.unparse(tree))}
    assert {file for file in readers if not file.startswith("config/")} == TOP


def test_only_authorization_makes_a_permit() -> None:
    assert {
        file for file, tree in FILES.items() if re.search(r"\bPermit\(", ast.unparse(tree))
    } == {"app/authorization.py"}


@pytest.mark.parametrize("file", sorted(APP))
def test_no_file_has_more_than_three_hundred_lines(file: str) -> None:
    assert len((ROOT / file).read_text("utf-8").splitlines()) <= 300


@pytest.mark.parametrize("file", sorted(FILES))
def test_what_is_public_is_explained(file: str) -> None:
    """By a docstring, or, as the tree of errors is, by a line about it in the module's."""
    told = ast.get_docstring(FILES[file]) or ""
    silent = [node.name for node in public(FILES[file]) if not ast.get_docstring(node)]
    assert told
    assert [name for name in silent if not re.search(rf"\b{name}\b", told)] == []


def test_the_rules_look_at_something() -> None:
    assert len(APP) > 20
    assert importers_of("flask") > {"app/proxy.py", "app/responses.py"}
    assert reached_from("app/authorization.py") > {"app/errors.py", "app/inbound.py"}
    assert len([*public(FILES["app/circuit.py"])]) > 5
