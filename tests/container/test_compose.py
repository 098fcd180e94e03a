"""compose.yaml: valid, pinned, and of the production shape."""

import json
import re
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from config import load
from config.version import VERSION
from infrastructure.nginx.configuration import PROXIES, ROUTES
from tests.container.build import ROOT, environment, last, lines, stages

FILE = ROOT / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONTRACT: dict[str, Any] = json.loads(ROUTES.read_text("utf-8"))
PROXY_SERVICES = [name for name in SERVICES if name.startswith("proxy-")]
SCHEMA = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]


def check(file: Path) -> "subprocess.CompletedProcess[str]":
    """The compose specification's schema, which comes with the checker."""
    return subprocess.run([*SCHEMA, str(file)], capture_output=True, text=True, check=False)


def on(network: str) -> set[str]:
    """The services of a network."""
    return {name for name, service in SERVICES.items() if network in service["networks"]}


def filled_in(value: str) -> str:
    """A value with something in the place of each variable."""
    return re.sub(r"\$\{.*?\}", "0123456789abcdef", value)


def test_it_is_valid() -> None:
    done = check(FILE)
    assert done.returncode == 0, done.stdout


def test_what_is_not_valid_would_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(FILE.read_text("utf-8").replace("networks: [edge]", "network: [edge]"), "utf-8")
    assert "nginx" in check(file).stdout


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_has_a_whole_version(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert re.match(r"\d+\.\d+(\.\d+|-alpine)|RELEASE\.\d{4}-\d\d-\d\dT", tag)


def test_our_images_are_built_from_the_dockerfile_under_their_labels_version() -> None:
    built = {name: service for name, service in SERVICES.items() if "build" in service}
    assert built.keys() == {*PROXY_SERVICES, "auth-service", "mlflow", "bucket"}
    for service in built.values():
        target = service["build"]["target"]
        assert target in stages()
        labels = last(lines(target), "LABEL").pairs
        version = labels["org.opencontainers.image.version"]
        assert service["image"].partition(":")[2] == version
    assert SERVICES["proxy-blue"]["image"].endswith(f":{VERSION}")


def test_two_proxies_are_what_nginx_asks() -> None:
    assert len(PROXY_SERVICES) == 2
    addresses = {address for group in PROXIES.values() for address in group}
    assert addresses == {f"{name}:{CONTRACT['proxy']['port']}" for name in PROXY_SERVICES}
    mounts = SERVICES["nginx"]["volumes"]
    assert mounts == ["./infrastructure/nginx/nginx.conf:/etc/nginx/nginx.conf:ro"]
    assert (ROOT / "infrastructure/nginx/nginx.conf").is_file()


def test_a_proxy_that_is_replaced_is_where_nginx_looks_for_it() -> None:
    """nginx resolves names at its start only; nobody else is given one of these addresses."""
    (range_of_others,) = COMPOSE["networks"]["edge"]["ipam"]["config"]
    given = [
        ip_address(SERVICES[name]["networks"]["edge"]["ipv4_address"]) for name in PROXY_SERVICES
    ]
    assert len({*given}) == len(given)
    assert all(address in ip_network(range_of_others["subnet"]) for address in given)
    assert not [address for address in given if address in ip_network(range_of_others["ip_range"])]


def test_only_nginx_can_be_reached_from_outside_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"nginx": ["127.0.0.1:8080:8080"]}
    assert not [s for s in SERVICES.values() if {"network_mode", "privileged"} & s.keys()]


def test_who_meets_whom() -> None:
    proxies = set(PROXY_SERVICES)
    assert on("edge") == {"nginx"} | proxies
    assert on("inside") == proxies | {"mlflow", "redis", "auth-service"}
    assert on("store") == {"mlflow", "postgres", "objects", "bucket"}
    assert [n for n, kind in COMPOSE["networks"].items() if not kind.get("internal")] == ["edge"]


def test_the_proxies_are_set_up_as_in_aws() -> None:
    for name in PROXY_SERVICES:
        given = SERVICES[name]["environment"]
        assert CONTRACT["proxy"]["environment"].items() <= given.items()
        assert SERVICES[name]["stop_grace_period"] == f"{CONTRACT['timeouts']['stop']}s"
        settings = load({k: filled_in(v) for k, v in given.items()})
        assert settings.mlflow_server_url == f"http://mlflow:{CONTRACT['mlflow']['port']}"
        assert settings.instances == len(PROXY_SERVICES)


def test_mlflow_may_be_called_by_the_proxies_name_for_it_and_its_check() -> None:
    (option,) = [w for w in SERVICES["mlflow"]["command"] if w.startswith("--allowed-hosts=")]
    called = urlsplit(SERVICES["proxy-blue"]["environment"]["MLFLOW_SERVER_URL"]).netloc
    assert option.partition("=")[2].split(",") == [called, "127.0.0.1:5000"]
    keepalive = f"--uvicorn-opts=--timeout-keep-alive {CONTRACT['timeouts']['mlflow_keepalive']}"
    assert keepalive in SERVICES["mlflow"]["command"]
    assert "127.0.0.1:5000" in last(lines("mlflow"), "HEALTHCHECK").value


def test_mlflow_keeps_its_tables_and_artifacts_where_the_stores_are() -> None:
    given = SERVICES["mlflow"]["environment"]
    assert filled_in(given["MLFLOW_BACKEND_STORE_URI"]).endswith("@postgres:5432/mlflow")
    assert given["MLFLOW_S3_ENDPOINT_URL"] == "http://objects:9000"
    bucket = "\n".join(SERVICES["bucket"]["command"])
    compile(SERVICES["bucket"]["command"][2], "bucket", "exec")
    assert 'Bucket="mlflow"' in bucket
    assert "--artifacts-destination=s3://mlflow/artifacts" in SERVICES["mlflow"]["command"]


def test_every_password_comes_from_outside() -> None:
    text = FILE.read_text("utf-8")
    variables = set(re.findall(r"\$\{(\w+)", text))
    assert variables == {
        *("AUTH_CACHE_SECRET", "OBJECTS_PASSWORD", "POSTGRES_PASSWORD", "REDIS_PASSWORD")
    }
    assert len(re.findall(r"\$\{", text)) == text.count(":?see docs/deployment.md}")
    assert "/.env\n" in (ROOT / ".gitignore").read_text("utf-8")


@pytest.mark.parametrize("name", [*PROXY_SERVICES, "nginx", "mlflow", "auth-service", "redis"])
def test_a_container_writes_to_tmp_only_and_gains_no_rights(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    size = ",size=1g" if name in PROXY_SERVICES else ""
    assert name == "redis" or service["tmpfs"] == [f"/tmp:mode=1777{size}"]
    if name == "auth-service":
        folder = Path(environment(lines(name))["AUTH_SERVICE_DATABASE"]).parent
        assert service["volumes"] == [f"keys:{folder}"]


@pytest.mark.parametrize("name", SERVICES)
def test_who_waits_for_another_waits_until_it_works(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            ours = "build" in SERVICES[other]
            assert ours or "healthcheck" in SERVICES[other]
