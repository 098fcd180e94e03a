"""`flask doctor` through each server: nothing to find behind the recommended configurations, and
the right names for what the least configuration of each does."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.app.doctor.conftest import PATIENT, Finished, examine, flask, key
from tests.conftest import SHARED_PROXY
from tests.fronts.conftest import without
from tests.fronts.servers import KINDS, MINIMAL, RECOMMENDED, Front, FrontMissing
from tests.fronts.test_fronts import GOOD

__all__ = ["examine", "flask", "key"]

FOUND = {
    "nginx": {"http10-hop", "body-limit", "host-rewritten", "forged-address", "shared-address"},
    "Apache": {"encoded-slash"},
    "HAProxy": {"forged-address", "shared-address"},
    "Caddy": set(),
    "Traefik": set(),
    "Envoy": {"forged-address", "shared-address"},
    "lighttpd": {"breaks-hidden", "request-line-limit"},
}

#: Where the proxy reads X-Forwarded-Host, which Apache sends, a replaced Host does no harm.
MAY_BE_FOUND = {"Apache": {"host-rewritten"}}


@pytest.fixture(scope="module")
def behind_one_hop(
    servers: Path, auth_service: Any, redis_url: str, mlflow_server: Any
) -> Iterator[Proxy]:
    """A proxy that trusts one hop, with a real MLflow."""
    upstreams = {
        "MLFLOW_SERVER_URL": mlflow_server.url,
        "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
        "REDIS_URL": redis_url,
        "TRUSTED_PROXY_HOPS": "1",
    }
    server = Proxy(servers / "behind-one-hop", SHARED_PROXY | PATIENT | upstreams)
    server.start()
    server.wait_until_ready()
    yield server
    server.kill()


@pytest.fixture
def in_front(fronts: None, behind_one_hop: Proxy, tmp_path: Path) -> Iterator[Callable[..., Front]]:
    """Starts a server in front of the proxy, or of another one; skips where it is missing."""
    started: list[Front] = []

    def start(name: str, configuration: Path, behind: Proxy = behind_one_hop) -> Front:
        try:
            front = Front(name, tmp_path / name, configuration, behind.port)
        except FrontMissing as missing:
            without(missing)
        started.append(front)
        front.start()
        front.wait_until_ready()
        return front

    yield start
    for front in started:
        front.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_wrong_behind_a_recommended_configuration(
    examine: Callable[..., Finished],
    in_front: Callable[[str, Path], Front],
    key: str,
    name: str,
) -> None:
    done = examine(in_front(name, RECOMMENDED).api, key)
    assert done.report["faults"] == [], done.not_passed


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_what_a_server_does_unasked_has_a_name(
    examine: Callable[..., Finished],
    in_front: Callable[[str, Path], Front],
    key: str,
    name: str,
) -> None:
    done = examine(in_front(name, MINIMAL).api, key)
    found = set(done.report["faults"]) - MAY_BE_FOUND.get(name, set())
    assert found == FOUND[name], done.not_passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configuration", "found"), [(RECOMMENDED, set()), (MINIMAL, FOUND["nginx"] | {"scheme-lost"})]
)
def test_whether_the_proxy_hears_of_tls_in_front_of_it(
    examine: Callable[..., Finished],
    in_front: Callable[[str, Path], Front],
    key: str,
    tmp_path: Path,
    configuration: Path,
    found: set[str],
) -> None:
    certificate = own_certificate(tmp_path)
    text = (configuration / "nginx.conf").read_text("utf-8")
    tls = f"8080 ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate};"
    (tmp_path / "nginx.conf").write_text(text.replace("8080;", tls), "utf-8")
    front = in_front("nginx", tmp_path)
    url = front.api.replace("http:", "https:")
    done = examine(url, key, "--ca-file", str(certificate))
    assert set(done.report["faults"]) == found, done.not_passed


@pytest.mark.slow
def test_hops_that_were_forgotten_have_a_name(
    examine: Callable[..., Finished],
    in_front: Callable[..., Front],
    start_proxy: Callable[..., Proxy],
    key: str,
    tmp_path: Path,
) -> None:
    """Every client has the address of nginx then, and for the proxy it came over http."""
    certificate = own_certificate(tmp_path)
    text = (RECOMMENDED / "nginx.conf").read_text("utf-8")
    tls = f"8080 ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate};"
    (tmp_path / "nginx.conf").write_text(text.replace("8080;", tls), "utf-8")
    front = in_front("nginx", tmp_path, start_proxy(TRUSTED_PROXY_HOPS=0, **PATIENT))
    done = examine(front.api.replace("http:", "https:"), key, "--ca-file", str(certificate))
    assert set(done.report["faults"]) == {"shared-address", "scheme-lost"}, done.not_passed
    assert "TRUSTED_PROXY_HOPS=1" in done.out


def own_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 with its key, in one file."""
    file = folder / "certificate.pem"
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl on this machine")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    output = ["-keyout", str(file), "-out", str(folder / "public.pem")]
    subprocess.run([*command, *names, *output], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + (folder / "public.pem").read_bytes())
    return file
