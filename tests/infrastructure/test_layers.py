"""Without terraform: the files hold what they should, and each planted fault is caught.

The HCL is read as it stands (hcl.py); what depends on variables is looked at by test_terraform.py.
"""

import shutil
from pathlib import Path

import pytest

from tests.infrastructure.checks import CHECKS, complaints
from tests.infrastructure.deployment import INFRASTRUCTURE, Deployment, read
from tests.infrastructure.hcl import Module
from tests.infrastructure.mutations import MUTATIONS, Mutation


def deployment_of(infrastructure: Path) -> Deployment:
    return read(Module(infrastructure / "terraform").resources(), infrastructure)


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    return deployment_of(INFRASTRUCTURE)


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_finds_nothing_wrong(deployment: Deployment, name: str) -> None:
    assert [*CHECKS[name](deployment)] == []


def test_the_checks_have_something_to_look_at(deployment: Deployment) -> None:
    assert [rule.priority for rule in deployment.rules] == [100, 200, 300, 400]
    assert {action.kind for action in deployment.defaults} == {"fixed-response", "redirect"}
    assert [*deployment.groups] == ["proxy"]
    assert {*deployment.containers} == {"proxy", "mlflow"}
    assert len(deployment.all("aws_lb")) == 1
    assert len(deployment.doors) > 10


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_planted_fault_is_caught(mutation: Mutation, tmp_path: Path) -> None:
    copy = tmp_path / "infrastructure"
    shutil.copytree(
        INFRASTRUCTURE, copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*")
    )
    mutation.edit(copy)
    found = complaints(deployment_of(copy))
    assert mutation.caught_by in found, f"caught by {[*found]}"


def test_each_check_has_caught_something() -> None:
    assert {mutation.caught_by for mutation in MUTATIONS} == {*CHECKS}
