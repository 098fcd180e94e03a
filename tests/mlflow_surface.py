"""What the installed MLflow serves, as JSON: run this with the server environment's python.

    <server python> tests/mlflow_surface.py            a list of every method, path and its origin
    <server python> tests/mlflow_surface.py --resolve  reads [[method, path], ...] and prints
                                                       {"surface": the same list,
                                                        "resolved": the template that MLflow's
                                                            routers choose for each, or null,
                                                        "mutations": GraphQL's}

Path templates are written as in app/request/mlflow_routes.tsv. The walk fails on a route class that
it does not know: a route that it cannot see is a route that nobody has classified. MLflow is
imported in a temporary folder without telemetry, jobs or a database, so nothing is left behind.
"""

import contextlib
import importlib.util
import json
import os
import re
import sys
import tempfile
import types
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

#: Flask's `<name>`, `<path:name>` and Starlette's `{name}`, `{name:path}`.
_FLASK_PARAMETER = re.compile(r"<(?:(?P<converter>[a-z]+):)?(?P<name>\w+)>")
_STARLETTE_PARAMETER = re.compile(r"{(?P<name>\w+)(?::(?P<converter>[a-z]+))?}")


class Served(NamedTuple):
    """One method on one path template. `origin` is `proto:<message>` for MLflow's protobuf
    services, else the framework (`flask`, `fastapi`, `basic-auth`) and the name it gives."""

    method: str
    path: str
    origin: str


def normalised(path: str) -> str:
    """Either framework's template in our notation; fails on a converter other than `path`."""
    for parameter in (_FLASK_PARAMETER, _STARLETTE_PARAMETER):
        path = parameter.sub(_in_our_notation, path)
    return path


def _in_our_notation(parameter: re.Match[str]) -> str:
    name, converter = parameter["name"], parameter["converter"]
    if converter not in (None, "default", "string", "str", "path"):
        raise SystemExit(f"MLflow uses a path converter that this walk does not know: {converter}")
    return f"{{{name}:path}}" if converter == "path" else f"{{{name}}}"


def protobuf_routes() -> Iterator[Served]:
    """The services in MLflow's .proto files, by the name of the request message."""
    from mlflow.server import handlers

    get_endpoints: Any = handlers.get_endpoints
    for path, message, methods in get_endpoints(lambda message: message):
        origin = f"{'proto' if isinstance(message, type) else 'handler'}:{message.__name__}"
        for method in methods:
            yield Served(method, normalised(path), origin)


def flask_routes(app: Any, origin: str = "flask") -> Iterator[Served]:
    """A Flask application's rules, without the OPTIONS that Flask itself adds and answers."""
    for rule in app.url_map.iter_rules():
        if rule.methods is None or rule.websocket:
            raise SystemExit(f"MLflow has a Flask rule that this walk does not know: {rule!r}")
        methods = set(rule.methods)
        if getattr(rule, "provide_automatic_options", False):
            methods.discard("OPTIONS")
        for method in sorted(methods):
            yield Served(method, normalised(rule.rule), f"{origin}:{rule.endpoint}")


def fastapi_routes(router: Any, prefix: str = "") -> Iterator[Served]:
    """FastAPI's own routes in the order in which they are tried, then the mounted Flask's."""
    from starlette.routing import Mount, Route

    if getattr(router, "_low_priority_routes", None):
        raise SystemExit(f"MLflow has front-end routes that this walk does not know, in {router!r}")
    for route in router.routes:
        if type(route).__name__ == "_IncludedRouter":
            below = prefix + route.include_context.prefix
            yield from fastapi_routes(route.original_router, below)
        elif isinstance(route, Mount):
            yield from _mounted_routes(route, prefix)
        elif isinstance(route, Route) and route.methods:
            for method in sorted(route.methods):
                yield Served(method, normalised(prefix + route.path), f"fastapi:{route.name}")
        else:
            raise SystemExit(f"MLflow has a route class that this walk does not know: {route!r}")


def _mounted_routes(mount: Any, prefix: str) -> Iterator[Served]:
    from flask import Flask

    application = getattr(mount.app, "app", mount.app)
    if not isinstance(application, Flask) or prefix + mount.path:
        raise SystemExit(f"MLflow mounts something that this walk does not know: {mount!r}")
    yield from flask_routes(application)


def basic_auth_routes() -> list[Served]:
    """What `--app-name basic-auth` adds. Its database is not opened; Flask-WTF, which it uses for
    CSRF only, need not be installed."""
    from mlflow.server import app

    before = set(flask_routes(app, "basic-auth"))
    if importlib.util.find_spec("flask_wtf") is None:
        sys.modules["flask_wtf"] = types.ModuleType("flask_wtf")
        sys.modules["flask_wtf.csrf"] = _csrf_stand_in()
    from mlflow.server import auth

    auth._init_store_for_app = lambda: None
    auth.create_app(app)
    return [served for served in flask_routes(app, "basic-auth") if served not in before]


def _csrf_stand_in() -> types.ModuleType:
    module = types.ModuleType("flask_wtf.csrf")
    module.CSRFProtect = type("CSRFProtect", (), {"init_app": lambda self, app: None})  # type: ignore[attr-defined]
    return module


def surface() -> list[dict[str, str]]:
    """Every route once per origin, in the order of the walk."""
    from mlflow.server.fastapi_app import app

    found = [*fastapi_routes(app), *protobuf_routes(), *basic_auth_routes()]
    return [served._asdict() for served in dict.fromkeys(found)]


def resolve(requests: Iterable[tuple[str, str]]) -> list[str | None]:
    """Per (method, decoded path) the template that serves it in MLflow; None for no route."""
    from mlflow.server import app as flask_app
    from mlflow.server.fastapi_app import app
    from starlette.routing import compile_path

    native = [
        (served.method, compile_path(served.path)[0], served.path)
        for served in fastapi_routes(app)
        if served.origin.startswith("fastapi:")
    ]
    adapter = flask_app.url_map.bind("localhost")
    return [_resolved(native, adapter, method, path) for method, path in requests]


def _resolved(native: list[Any], adapter: Any, method: str, path: str) -> str | None:
    from werkzeug.exceptions import HTTPException

    for served_method, pattern, template in native:
        if served_method == method and pattern.match(path):
            return str(template)
    try:
        rule, _ = adapter.match(path, method, return_rule=True)
    except HTTPException:  # no such path, not this method, or a redirect
        return None
    return normalised(rule.rule)


def mutations() -> list[str]:
    """The GraphQL mutations: `/graphql` is classified as a read as long as none of them writes."""
    from mlflow.server.graphql.graphql_schema_extensions import schema

    mutation = schema.graphql_schema.mutation_type
    return sorted(mutation.fields) if mutation else []


def _prepare_environment(folder: str) -> None:
    """Nothing of the caller's MLflow settings, nothing that starts or is written elsewhere."""
    for name in [name for name in os.environ if name.lstrip("_").startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(
        DO_NOT_TRACK="true",
        MLFLOW_DISABLE_TELEMETRY="true",
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db",
        MLFLOW_FLASK_SERVER_SECRET_KEY="only read by the walk",
    )
    os.chdir(folder)


def answer(arguments: list[str]) -> Any:
    """What the command line asks for."""
    if not arguments:
        return surface()
    if arguments != ["--resolve"]:
        raise SystemExit(__doc__)
    resolved = resolve(json.load(sys.stdin))  # before basic-auth adds its rules
    return {"surface": surface(), "resolved": resolved, "mutations": mutations()}


def main(arguments: list[str]) -> None:
    """Prints the answer as JSON; whatever MLflow itself prints goes to standard error."""
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        _prepare_environment(folder)
        found = answer(arguments)
        os.chdir(home)
    json.dump(found, sys.stdout, indent=0)


if __name__ == "__main__":
    main(sys.argv[1:])
