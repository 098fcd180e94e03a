"""Terraform for the tests that need it: once a session, or not at all."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import DEVELOPERS_ENVIRONMENT
from tests.infrastructure.mutations import MUTANTS, REFUSED, Edit
from tests.infrastructure.terraform import Missing, Outcome, Terraform, find, scratch_copy

MUTANT = """\
mock_provider "aws" {{
  source = "./tests/mocks"
}}

override_resource {{
  target = aws_lb_target_group.proxy
  values = {{
    arn        = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:targetgroup/proxy/0"
    arn_suffix = "targetgroup/proxy/0"
  }}
}}

run "{name}" {{
  module {{
    source = "./mutants/{name}/terraform"
  }}
}}
"""


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Terraform, offline. Where it or its provider is missing the test is skipped; with
    REQUIRE_TERRAFORM=1 it fails."""
    try:
        return find(DEVELOPERS_ENVIRONMENT, tmp_path_factory.mktemp("terraform"))
    except Missing as missing:
        if DEVELOPERS_ENVIRONMENT.get("REQUIRE_TERRAFORM", "0") not in ("", "0"):
            pytest.fail(f"REQUIRE_TERRAFORM is set, but {missing}")
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def outcomes(terraform: Terraform, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every `run` block of the module's own tests, and one for each mutant. `development` and
    `production` are what the two files of variables make; the rest has production's."""
    scratch = scratch_copy(tmp_path_factory.mktemp("scratch") / "infrastructure")
    module = scratch / "terraform"
    for name, edit in MUTANTS.items():
        _plant(module, name, edit)
    for name, (edit, _) in REFUSED.items():
        _plant(module, name, edit)
    terraform.init(module)
    every = terraform.test(module, "-var-file=production.tfvars")
    tests = "-filter=tests/environments.tftest.hcl"
    development = terraform.test(module, "-var-file=development.tfvars", tests)
    every["production"] = every.pop("environment")
    every["development"] = development.pop("environment")
    return every | development


def _plant(module: Path, name: str, edit: Edit) -> None:
    """A mutant of the module in a folder of it, with a test that makes it. One that cannot be made
    ends the tests of its file, so each has its own."""
    mutant = scratch_copy(module / "mutants" / name)
    shutil.rmtree(mutant / "terraform/tests")
    edit(mutant)
    (module / f"tests/mutant_{name}.tftest.hcl").write_text(MUTANT.format(name=name), "utf-8")
