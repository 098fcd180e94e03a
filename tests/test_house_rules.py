"""What never imports what, and where each thing stands: the rules of the house."""

import ast
import re
from collections.abc import Collection, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP = {"wsgi.py", "gunicorn.conf.py"}
PATHS = [ROOT / name for name in TOP] + [
    path for folder in ("app", "config") for path in (ROOT / folder).rglob("*.py")
]
FILES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in PATHS}
MODULES = {
    file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES
}
APP = {file for file in FILES if file.startswith("app/")}
SERVER, BROWSER, HEALTH, COMMANDS, DOCTOR = (
    {file for file in FILES if file.startswith(f"app/{room}/")}
    for room in ("server", "browser", "health", "commands", "doctor")
)
ASSEMBLY = {"app/factory.py", "app/services.py"}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def imported_by(file: str) -> Iterator[str]:
    """The full names of the modules that a file imports, at its top or anywhere else."""
    return names_in(FILES[file], MODULES)


@cache
def arrows() -> frozenset[tuple[str, str]]:
    """Every import of one of our files by another, tests included: (importer, imported)."""
    paths = [*ROOT.glob("*.py"), *(path for top in folders() for path in top.rglob("*.py"))]
    files = {path.relative_to(ROOT).as_posix(): path for path in paths}
    modules = {f.removesuffix(".py").removesuffix("/__init__").replace("/", "."): f for f in files}
    return frozenset(
        (file, modules[name])
        for file, path in files.items()
        for name in names_in(ast.parse(path.read_text("utf-8")), modules)
        if name in modules and modules[name] != file
    )


def names_in(tree: ast.Module, modules: Collection[str]) -> Iterator[str]:
    """The modules that a file imports; of a name out of a module, that module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules else str(node.module)


def folders() -> list[Path]:
    """The top-level folders, without those of tools and without what they build."""
    built = re.compile(r"[._].*|site")
    return [path for path in ROOT.iterdir() if path.is_dir() and not built.fullmatch(path.name)]


def between(level: int, within: str = "") -> set[tuple[str, str]]:
    """The arrows between folders or files of this level: 1 is the top of the repository."""
    cut = {
        tuple("/".join(end.split("/")[:level]) for end in arrow)
        for arrow in arrows()
        if all(end.startswith(within) for end in arrow)
    }
    return {(tail, head) for tail, head in cut if tail != head}


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
        ("requests", {"app/auth/client.py", "app/auth/connections.py"} | DOCTOR),
        (  # responses names one of its types
            "urllib3",
            {
                *("app/auth/client.py", "app/auth/connections.py", "app/responses.py"),
                *("app/upstream/answers.py", "app/upstream/connection.py"),
                *("app/upstream/forwarding.py", "app/upstream/response_head.py"),
                *("app/upstream/pool.py", "app/upstream/streaming.py"),
            },
        ),
        (
            "http.client urllib.request httpx",
            {"app/upstream/connection.py", "app/upstream/response_head.py"} | DOCTOR,
        ),
        (
            "redis",
            {
                f"app/state/redis_{name}.py"
                for name in ("client", "connection", "faults", "link", "rights", "sentinel")
            },
        ),
        (
            "limits flask_limiter",
            {"app/limits/request_limits.py", "app/state/windows.py"}
            | {"app/state/window_counts.py"},
        ),
        (
            "sqlite3",
            {f"app/state/instance_{name}.py" for name in ("database", "file", "store")}
            | {"app/state/window_counts.py"},
        ),
        ("pybreaker", {"app/upstream/circuit.py"}),
        ("gunicorn gevent", SERVER),
        ("app", {"wsgi.py", "gunicorn.conf.py"} | APP),
        ("app.health app.commands", ASSEMBLY | HEALTH | COMMANDS | DOCTOR),
        ("app.browser", {"app/factory.py"} | BROWSER),
        ("app.proxy", {"app/factory.py"}),
        ("app.services", {"app/factory.py", "app/proxy.py"} | BROWSER | COMMANDS),
        ("app.doctor", COMMANDS | DOCTOR),
        ("app.server", {"app/factory.py", "gunicorn.conf.py"} | SERVER),
    ],
)
def test_these_are_imported_nowhere_else(packages: str, allowed: set[str]) -> None:
    assert importers_of(*packages.split()) <= allowed


@pytest.mark.parametrize("module", ["request/errors", "observability/metrics"])
def test_the_ground_floor_imports_nothing_of_ours(module: str) -> None:
    shared = (
        {"app/observability/metric_file.py", "app/observability/folders.py"}
        if module == "observability/metrics"
        else set()
    )
    assert reached_from(f"app/{module}.py") == {f"app/{module}.py"} | shared


def test_the_server_loads_nothing_before_gevent_patches_but_its_files() -> None:
    """The master loads app/server/ first; what it loaded with it would keep unpatched locks."""
    reached = set().union(*(reached_from(file) for file in SERVER))
    assert {file for file in reached - SERVER if not file.startswith("config/")} == {
        "app/observability/folders.py",
        "app/observability/metric_file.py",
    }


def test_the_doctor_reaches_nothing_of_the_app_but_the_catalogue() -> None:
    reached = set().union(*(reached_from(file) for file in DOCTOR))
    assert reached == DOCTOR | {"app/health/faults.py"}


@pytest.mark.parametrize(
    "module", ["auth/authorization", "upstream/circuit", "request/route_table", "request/principal"]
)
def test_what_only_decides_knows_neither_flask_nor_a_socket(module: str) -> None:
    transports = importers_of("flask", "werkzeug", "socket", "http.client", "requests", "urllib3")
    assert not reached_from(f"app/{module}.py") & transports


def test_parts_come_from_their_own_files_not_from_the_package() -> None:
    froms = {
        f: [n.module for n in ast.walk(FILES[f]) if isinstance(n, ast.ImportFrom)] for f in APP
    }
    package = {file for file, modules in froms.items() if "app" in modules or None in modules}
    assert package == {"app/factory.py"}


def test_no_arrow_runs_up_and_there_is_no_circle() -> None:
    """A CycleError shows the circle."""
    graph = {file: {MODULES[n] for n in imported_by(file) if n in MODULES} for file in APP}
    assert [*TopologicalSorter(graph).static_order()][-1] == "app/factory.py"


@pytest.mark.parametrize(("level", "within"), [(9, ""), (1, ""), (2, "app/")])
def test_there_is_no_circle_tests_included(level: int, within: str) -> None:
    """Of files, of top-level folders, of the rooms of app/. A CycleError shows the circle."""
    graph: dict[str, set[str]] = {}
    for tail, head in between(level, within):
        graph.setdefault(tail, set()).add(head)
    assert [*TopologicalSorter(graph).static_order()]


def test_the_top_level_is_small() -> None:
    names = {folder.name for folder in folders()}
    assert len(names) <= 10, sorted(names)
    inside = {arrow for arrow in between(1) if {*arrow} <= names and arrow[0] != "tests"}
    assert len(inside) <= 7, sorted(inside)


def test_few_arrows_run_between_the_rooms_of_the_app() -> None:
    assert len(between(2, "app/")) <= 55, sorted(between(2, "app/"))


def test_the_environment_is_read_in_config_only_and_handed_over_at_the_top() -> None:
    reading = re.compile(r"\bos\.(environb?|getenvb?|putenv)\b|\bfrom os import")
    readers = {file for file, tree in FILES.items() if reading.search(ast.unparse(tree))}
    others = {file for file in readers if not file.startswith("config/")}
    # The doctor looks at the terminal that it runs in: NO_COLOR and TERM.
    assert others == TOP | {"app/doctor/steps.py"}


def test_only_authorization_makes_a_permit() -> None:
    assert {
        file for file, tree in FILES.items() if re.search(r"\bPermit\(", ast.unparse(tree))
    } == {"app/auth/authorization.py"}


@pytest.mark.parametrize("file", sorted(APP))
def test_no_file_has_more_than_three_hundred_lines(file: str) -> None:
    assert len((ROOT / file).read_text("utf-8").splitlines()) <= 300


@pytest.mark.parametrize("file", sorted(FILES.keys() - DOCTOR))
def test_what_is_public_is_explained(file: str) -> None:
    """By a docstring, or, as the tree of errors is, by a line about it in the module's."""
    told = ast.get_docstring(FILES[file]) or ""
    silent = [node.name for node in public(FILES[file]) if not ast.get_docstring(node)]
    assert told
    assert [name for name in silent if not re.search(rf"\b{name}\b", told)] == []


def test_the_rules_look_at_something() -> None:
    assert len(APP) > 20
    assert importers_of("flask") > {"app/proxy.py", "app/responses.py"}
    assert reached_from("app/auth/authorization.py") > {
        "app/request/errors.py",
        "app/request/inbound.py",
    }
    assert len([*public(FILES["app/upstream/circuit.py"])]) > 5
    assert ("app/proxy.py", "app/auth") in between(2, "app/")
    assert ("tests", "devstack") in between(1)
