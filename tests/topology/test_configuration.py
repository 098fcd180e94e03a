"""nginx's configuration is made from routes.json, and the committed one is."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from devstack.nginx import find_nginx
from infrastructure.nginx.configuration import ROUTES, render
from tests.nginx import require_nginx

COMMITTED = ROUTES.parent / "nginx/nginx.conf"


@pytest.fixture
def contract() -> dict[str, Any]:
    """What routes.json says."""
    loaded: dict[str, Any] = json.loads(ROUTES.read_text("utf-8"))
    return loaded


def test_the_committed_file_is_the_generated_one(contract: dict[str, Any]) -> None:
    made = render(contract)
    assert COMMITTED.read_text("utf-8") == made, (
        "make it again: python -m infrastructure.nginx.configuration "
        "> infrastructure/nginx/nginx.conf"
    )


def test_another_contract_makes_another_file(contract: dict[str, Any]) -> None:
    route = {"name": "new", "priority": 50, "paths": ["/new/?/*"]}
    made = render(contract | {"routes": [*contract["routes"], route]})
    assert r'"~^/new/[^?]/[^?]*(\?|$)" 1;  # new' in made
    assert made.index("# new") < made.index("# api-mlflow")


def test_no_address_is_mlflows(contract: dict[str, Any]) -> None:
    servers = [line.split()[1] for line in render(contract).splitlines() if " server " in line]
    ports = {address.partition(":")[2] for address in servers if ":" in address}
    assert ports == {str(contract["proxy"]["port"])}


@pytest.mark.parametrize(
    "otherwise",
    [
        {"content_type": "text/html"},
        {"body": "it's quoted"},
        {"body": "$host"},
        {"body": "back\\slash"},
    ],
)
def test_an_answer_that_nginx_cannot_give_as_it_stands_is_refused(
    contract: dict[str, Any], otherwise: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="otherwise"):
        render(contract | {"otherwise": contract["otherwise"] | otherwise})


def test_nginx_takes_it(contract: dict[str, Any], tmp_path: Path) -> None:
    require_nginx()
    here = {"blue": ["127.0.0.1:1"], "green": ["127.0.0.1:2", "127.0.0.1:3"]}
    file = tmp_path / "nginx.conf"
    file.write_text(render(contract, here, "127.0.0.1:4", str(tmp_path)), "utf-8")
    asked = [find_nginx(), "-t", "-p", str(tmp_path), "-c", str(file)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr
