"""Servers in front of the proxy, each started with a configuration file as it stands.

A file listens on 0.0.0.0:8080 and has the proxy at 127.0.0.1:8000; these two are replaced by what
a test has. nginx and Apache get what their packages put around a site.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devstack.environments import FRONTS, ROOT
from devstack.ports import HOST, free_port
from devstack.server import Server
from tests.wire import Wire, request

#: The configurations that docs/fronts.md recommends.
RECOMMENDED = ROOT / "infrastructure/fronts"
#: The least that each server needs to pass anything on: what it does unasked.
MINIMAL = ROOT / "tests/fronts/minimal"

SYSTEM_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"
MODULES = "/usr/lib/apache2/modules"

NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site/nginx.conf;
}}
"""

APACHE = """\
ServerRoot {folder}
ServerName localhost
PidFile {folder}/apache.pid
Mutex posixsem
DefaultRuntimeDir {folder}
ErrorLog /dev/stderr
{modules}
IncludeOptional {folder}/site/apache.conf
"""

APACHE_MODULES = "mpm_event authz_core headers proxy proxy_http reqtimeout unixd"


@dataclass(frozen=True)
class Kind:
    """One server: the `files` of a configuration; how it is found, and started in a folder; and
    how a machine gets it."""

    files: tuple[str, ...]
    find: Callable[[], str | None]
    command: Callable[[str, Path], list[str]]
    install: str


def _of_the_system(*names: str) -> Callable[[], str | None]:
    def find() -> str | None:
        found = (shutil.which(name) or shutil.which(name, path=SYSTEM_PATHS) for name in names)
        return next(filter(None, found), None)

    return find


def _of_the_registry(name: str) -> Callable[[], str | None]:
    def find() -> str | None:
        own = FRONTS.folder / "bin" / name
        return str(own) if own.exists() else shutil.which(name)

    return find


def _nginx(binary: str, folder: Path) -> list[str]:
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder), "utf-8")
    return [binary, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def _apache(binary: str, folder: Path) -> list[str]:
    files = ((name, Path(MODULES, f"mod_{name}.so")) for name in APACHE_MODULES.split())
    lines = (f"LoadModule {name}_module {file}" for name, file in files if file.exists())
    modules = "\n".join(lines)  # what is built in has no file
    text = APACHE.format(folder=folder, modules=modules)
    (folder / "apache.conf").write_text(text, "utf-8")
    return [binary, "-D", "FOREGROUND", "-f", str(folder / "apache.conf")]


def _haproxy(binary: str, folder: Path) -> list[str]:
    return [binary, "-db", "-f", str(folder / "site/haproxy.cfg")]


def _caddy(binary: str, folder: Path) -> list[str]:
    return [binary, "run", "--adapter", "caddyfile", "--config", str(folder / "site/Caddyfile")]


def _traefik(binary: str, folder: Path) -> list[str]:
    return [binary, f"--configFile={folder / 'site/traefik.yaml'}"]


def _envoy(binary: str, folder: Path) -> list[str]:
    configuration = str(folder / "site/envoy.yaml")
    return [binary, "-c", configuration, "--disable-hot-restart", "--concurrency", "1"]


def _lighttpd(binary: str, folder: Path) -> list[str]:
    return [binary, "-D", "-f", str(folder / "site/lighttpd.conf")]


WHEELS = "python3 -m devstack.environments fronts"

KINDS = {
    "nginx": Kind(("nginx.conf",), _of_the_system("nginx"), _nginx, "apt install nginx-light"),
    "Apache": Kind(
        ("apache.conf",), _of_the_system("apache2", "httpd"), _apache, "apt install apache2-bin"
    ),
    "HAProxy": Kind(("haproxy.cfg",), _of_the_system("haproxy"), _haproxy, "apt install haproxy"),
    "Caddy": Kind(("Caddyfile",), _of_the_registry("caddy"), _caddy, WHEELS),
    "Traefik": Kind(
        ("traefik.yaml", "traefik-routes.yaml"), _of_the_registry("traefik"), _traefik, WHEELS
    ),
    "Envoy": Kind(("envoy.yaml",), _of_the_registry("envoy"), _envoy, WHEELS),
    "lighttpd": Kind(
        ("lighttpd.conf",), _of_the_system("lighttpd"), _lighttpd, "apt install lighttpd"
    ),
}


class FrontMissing(Exception):
    """The server is not on this machine; the message says how it gets there."""


class Front(Server):
    """A server in front of `behind` (a port of this machine)."""

    timeout = 20.0

    def __init__(self, name: str, folder: Path, configuration: Path, behind: int) -> None:
        """`configuration` is the folder with the server's files. Raises FrontMissing."""
        self.name = name
        kind = KINDS[name]
        binary = kind.find()
        if binary is None:
            raise FrontMissing(f"{name} is not on this machine: {kind.install}")
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.api = f"{self.url}/api/mlflow"
        (folder / "site").mkdir(parents=True)
        for file in kind.files:
            text = (configuration / file).read_text("utf-8")
            text = text.replace("0.0.0.0", HOST).replace("8080", str(self.port))
            text = text.replace("8000", str(behind))
            text = text.replace("filename: ", f"filename: {folder}/site/")
            (folder / "site" / file).write_text(text, "utf-8")
        home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        super().__init__(kind.command(binary, folder), folder, home)

    def is_ready(self) -> bool:
        """Whether it passes something on; some listen before they know where to. One that wants
        TLS says so in its 400."""
        try:
            with Wire(self.url) as wire:
                wire.socket.settimeout(2)
                return wire.ask(request("GET", "/health")).status in (200, 400)
        except OSError:
            return False
