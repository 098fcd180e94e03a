"""What stands in the files: named as agreed, nothing of a real deployment, one truth for routes."""

import re
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import hcl2
import pytest
from werkzeug.routing import Rule

from app.factory import create_app
from config import Settings
from tests.app.samples import settings
from tests.infrastructure.alb import Action, decide
from tests.infrastructure.deployment import INFRASTRUCTURE, read
from tests.infrastructure.hcl import Module
from tests.infrastructure.terraform import OPERATORS

TERRAFORM = INFRASTRUCTURE / "terraform"
ENVIRONMENTS = ("development", "production")
LEFT_OUT = (*OPERATORS, "__pycache__")
FILES = [
    path
    for path in sorted(INFRASTRUCTURE.rglob("*"))
    if path.is_file()
    and not any(
        fnmatch(part, name) for part in path.relative_to(INFRASTRUCTURE).parts for name in LEFT_OUT
    )
]


def assigned(file: str) -> dict[str, Any]:
    """The variables that a file of the module sets, with the values as they are written."""
    values = hcl2.loads((TERRAFORM / file).read_text("utf-8"))
    return {name: value for name, value in values.items() if not name.startswith("__")}


def variables() -> dict[str, dict[str, Any]]:
    """Every variable of the module: its name and what is written about it."""
    blocks = hcl2.loads((TERRAFORM / "variables.tf").read_text("utf-8"))["variable"]
    return {name.strip('"'): body for block in blocks for name, body in block.items()}


@pytest.mark.parametrize(
    "name",
    "main alb-listener-rules service-discovery ecs-proxy ecs-mlflow security-groups monitoring "
    "redis variables outputs".split(),
)
def test_the_module_has_the_file(name: str) -> None:
    assert (TERRAFORM / f"{name}.tf").exists()


@pytest.mark.parametrize(
    "file", FILES, ids=lambda path: path.relative_to(INFRASTRUCTURE).as_posix()
)
def test_nothing_of_a_real_deployment(file: Path) -> None:
    """No account, no ARN but patterns and inventions, no id, no address."""
    text = file.read_text("utf-8")
    assert {*re.findall(r"(?<![\w.])\d{12}(?![\w.])", text)} <= {"0" * 12}
    arns = re.findall(r"arn:aws[a-z-]*:[a-z0-9-]*:[a-z0-9-]*:(\d*):", text)
    assert {*arns} <= {"", "0" * 12}
    assert not re.findall(r"\b(?:vpc|subnet|sg|eni|i|rtb|igw|nat)-[0-9a-f]{8,17}\b", text)
    addresses = re.findall(r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b", text)
    assert {*addresses} <= {"0.0.0.0", "127.0.0.1"}
    assert not re.search(r"\.(amazonaws\.com|amazonaws\.com\.cn)\b", text.replace("ecs-tasks.", ""))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_has_its_own_name(environment: str) -> None:
    assert assigned(f"{environment}.tfvars")["environment"] == f'"{environment}"'


def test_both_environments_set_the_same() -> None:
    one, other = (assigned(f"{environment}.tfvars") for environment in ENVIRONMENTS)
    assert {*one} == {*other}


def test_the_example_sets_what_has_no_default() -> None:
    needed = {name for name, body in variables().items() if "default" not in body}
    assert needed <= {*assigned("account.tfvars.example")} | {"environment"}


def test_an_account_overrides_nothing_of_an_environment() -> None:
    account = {*assigned("account.tfvars.example")}
    assert account & {*assigned("production.tfvars")} == set()
    assert account <= {*variables()}


def test_every_variable_says_what_it_is() -> None:
    assert [name for name, body in variables().items() if not body["description"]] == []


def test_the_load_balancer_lets_through_what_the_app_serves_to_the_public(tmp_path: Path) -> None:
    """Every route of the app but readiness and metrics; the app is asked, not a list."""
    app = create_app(settings(instance_folder=str(tmp_path)))
    rules = read(Module(TERRAFORM).resources()).rules
    stopped = {
        example(rule)
        for rule in app.url_map.iter_rules()
        if decide(rules, Action("fixed-response"), "registry.hokus.ai", example(rule)).kind
        != "forward"
    }
    assert stopped == {"/ready", "/metrics"}


def example(rule: Rule) -> str:
    """A path that a route of the app matches."""
    return re.sub(r"<[^>]+>", "x", rule.rule)


def test_every_variable_that_the_task_sets_is_a_setting_of_the_proxy() -> None:
    known = {row.metadata["variable"] for row in fields(Settings)}
    text = (TERRAFORM / "ecs-proxy.tf").read_text("utf-8")
    contract = Module(TERRAFORM).local("contract")["proxy"]["environment"]
    set_here = {*re.findall(r"\b([A-Z]{2,}(?:_[A-Z]+)+|BIND|INSTANCES)\b +=", text)}
    assert {"MLFLOW_SERVER_URL", "REDIS_URL", "INSTANCES"} <= set_here
    assert {*contract} | set_here <= known
