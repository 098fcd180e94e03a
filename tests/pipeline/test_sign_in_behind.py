"""Signing in over plain http behind a real nginx and a real Apache, as they come.

A browser sends no Sec-Fetch-Site over plain http to a name, so Origin alone decides.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devstack.ports import HOST, free_port
from devstack.proxy import Proxy
from devstack.server import Server, answers
from tests.pipeline.signing_in import CREATE, cookie_of, sign_in
from tests.upstreams import Upstream
from tests.wire import call

NGINX = """daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}
http {{
  access_log off; client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{ listen {listen}; location / {{
    proxy_pass http://{target};
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    {more}
  }} }}
}}
"""

APACHE = """ServerRoot {folder}
Listen {listen}
ServerName proxy.test
PidFile {folder}/httpd.pid
ErrorLog {folder}/error.log
Mutex pthread
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
{more}
ProxyPass / http://{target}/
"""

MODULES = "/usr/lib/apache2/modules"


class Front(Server):
    """A web server in front of the proxy."""

    timeout = 20.0

    def __init__(self, name: str, folder: Path, target: str, more: str) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        folder.mkdir(parents=True)
        text = {"nginx": NGINX, "apache2": APACHE}[name]
        listen = f"{HOST}:{self.port}"
        file = folder / "server.conf"
        file.write_text(
            text.format(listen=listen, target=target, more=more, folder=folder, modules=MODULES)
        )
        path = "/usr/local/sbin:/usr/sbin:/sbin"
        program = shutil.which(name) or shutil.which(name, path=path)
        if program is None or (name == "apache2" and not Path(MODULES).is_dir()):
            pytest.skip(f"there is no {name} here")
        commands = {
            "nginx": [program, "-p", str(folder), "-c", str(file)],
            "apache2": [program, "-X", "-f", str(file)],
        }
        super().__init__(commands[name], folder)

    def is_ready(self) -> bool:
        """Whether it passes something on."""
        return answers(f"{self.url}/health")


@pytest.fixture
def start_behind(
    start_front: Callable[..., Proxy], tmp_path: Path
) -> Iterator[Callable[..., Front]]:
    """Start a proxy, and a server in front of it."""
    started: list[Front] = []

    def start(name: str, hops: int, more: str) -> Front:
        behind = start_front(TRUSTED_PROXY_HOPS=hops)
        front = Front(name, tmp_path / f"{name}-{len(started)}", f"{HOST}:{behind.port}", more)
        started.append(front)
        front.start()
        front.wait_until_ready()
        return front

    yield start
    for server in started:
        server.stop()


X_HOST = "proxy_set_header X-Forwarded-Host $http_host;"
X_PORT = "proxy_set_header Host $host; proxy_set_header X-Forwarded-Port $server_port;"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hops", "more", "status"),
    [
        ("nginx", 1, "", 403),
        ("nginx", 1, "proxy_set_header Host $host;", 403),
        ("nginx", 0, X_HOST, 403),
        ("nginx", 1, X_HOST, 303),
        ("nginx", 1, X_PORT, 303),
        ("nginx", 0, "proxy_set_header Host $http_host;", 303),
        ("nginx", 1, 'proxy_set_header Origin "";', 403),
        ("nginx", 1, 'proxy_set_header Origin ""; proxy_set_header Host $http_host;', 303),
        ("apache2", 1, "", 303),
        ("apache2", 0, "", 403),
        ("apache2", 0, "ProxyPreserveHost On", 303),
    ],
)
def test_sign_in_works_or_names_the_setting(
    start_behind: Callable[..., Front],
    upstream: Upstream,
    key: str,
    name: str,
    hops: int,
    more: str,
    status: int,
) -> None:
    front = start_behind(name, hops, more)
    own: tuple[str, ...]
    own = (f"Host: mlflow.test:{front.port}", f"Origin: http://mlflow.test:{front.port}")
    if 'Origin ""' in more:  # Referer is left
        own += (f"Referer: http://mlflow.test:{front.port}/mlflow/-/sign-in",)
    answer = sign_in(front, key, *own)  # type: ignore[arg-type]
    assert answer.status == status, answer.body
    if status == 403:
        assert b"proxy_set_header Host $http_host" in answer.body
        assert b"ProxyPreserveHost On" in answer.body
        return
    session = cookie_of(answer)
    assert call(front.url, "POST", CREATE, session, *own, body=b"{}").status == 200
    evil = (own[0], "Origin: http://evil.test")
    assert call(front.url, "POST", CREATE, session, *evil, body=b"{}").status == 403
