"""With terraform: the module is well-formed, and what it would deploy passes the same checks.

Nothing is deployed: providers are mocked, or nobody answers. Skipped where terraform or its
provider is missing; REQUIRE_TERRAFORM=1 makes that a failure.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infrastructure.checks import complaints
from tests.infrastructure.deployment import ROOT, Deployment, read
from tests.infrastructure.mutations import MUTANTS, MUTATIONS, REFUSED, Mutation
from tests.infrastructure.terraform import Missing, Outcome, Terraform, find, scratch_copy

#: The first test that wants an outcome runs them all; a busy machine takes its time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

Outcomes = dict[str, Outcome]
STATES = ("development", "production", "guest")
ENVIRONMENTS = ("development", "production")

#: Beside the module: a plan that may not ask AWS who it is.
OFFLINE = """\
terraform {
  backend "local" {}
}

provider "aws" {
  skip_credentials_validation = true
  skip_requesting_account_id  = true
}
"""


def deployment_of(outcomes: Outcomes, run: str) -> Deployment:
    """The deployment whose mocked state a `run` block left."""
    return read(outcomes[run].resources())


# --- the module ---------------------------------------------------------------------------------


def test_the_files_are_in_terraforms_own_format(terraform: Terraform, tmp_path: Path) -> None:
    module = scratch_copy(tmp_path / "infrastructure") / "terraform"
    assert terraform.run(module, "fmt", "-check", "-recursive", check=False).stdout == ""


def test_terraform_finds_it_valid_without_a_warning(terraform: Terraform, tmp_path: Path) -> None:
    module = scratch_copy(tmp_path / "infrastructure") / "terraform"
    terraform.init(module)
    said = terraform.run(module, "validate", "-no-color").stdout
    assert "Success! The configuration is valid." in said
    assert "Warning" not in said


def test_the_modules_own_tests_pass(outcomes: Outcomes) -> None:
    own = {name: outcomes[name] for name in outcomes.keys() - MUTANTS.keys() - REFUSED.keys()}
    assert {name: outcome.said for name, outcome in own.items() if outcome.status != "pass"} == {}
    assert {*STATES, "mixed_up_environments"} < {*own}


# --- what it would deploy -----------------------------------------------------------------------


@pytest.mark.parametrize("run", STATES)
def test_every_check_passes(outcomes: Outcomes, run: str) -> None:
    assert complaints(deployment_of(outcomes, run)) == {}


def test_the_state_has_all_that_the_checks_look_at(outcomes: Outcomes) -> None:
    deployment = deployment_of(outcomes, "production")
    assert [*deployment.groups] == ["proxy"]
    assert len(deployment.rules) == 4
    assert len(deployment.all("aws_iam_role_policy")) == 3
    assert {door.group for door in deployment.doors} == {"alb", "proxy", "mlflow", "redis"}
    environment = deployment.containers["proxy"]["environment"]
    assert {"KEEPALIVE", "TRUSTED_PROXY_HOPS", "MLFLOW_SERVER_URL"} < {
        v["name"] for v in environment
    }


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_proxy_gets_addresses_as_variables_and_secrets_as_secrets(
    outcomes: Outcomes, environment: str
) -> None:
    container = deployment_of(outcomes, environment).containers["proxy"]
    variables = {variable["name"]: variable["value"] for variable in container["environment"]}
    private = f"http://mlflow.hokusai-{environment}.local:5000"
    assert variables["MLFLOW_SERVER_URL"] == private
    assert variables["HOKUSAI_AUTH_SERVICE_URL"] == "https://auth.example.com"
    assert [secret["name"] for secret in container["secrets"]] == ["AUTH_CACHE_SECRET", "REDIS_URL"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_mlflow_allows_the_host_that_the_proxy_sends(outcomes: Outcomes, environment: str) -> None:
    containers = deployment_of(outcomes, environment).containers
    variables = {v["name"]: v["value"] for v in containers["proxy"]["environment"]}
    command = containers["mlflow"]["command"]
    allowed = command[command.index("--allowed-hosts") + 1].split(",")
    assert variables["MLFLOW_SERVER_URL"].removeprefix("http://") in allowed
    assert "*" not in allowed


def test_rights_go_to_the_secret_not_to_a_key_in_it(outcomes: Outcomes) -> None:
    policy = deployment_of(outcomes, "production").only("aws_iam_role_policy", "mlflow_execution")
    assert 'secret:database-mock"' in policy["policy"]
    assert "uri" not in policy["policy"]


def test_redis_wants_tls_and_a_password(outcomes: Outcomes) -> None:
    redis = deployment_of(outcomes, "production").only("aws_elasticache_replication_group", "redis")
    assert redis["transit_encryption_enabled"] is True
    assert redis["transit_encryption_mode"] == "required"
    assert redis["auth_token"]
    assert redis["automatic_failover_enabled"] is True


def test_a_guest_makes_neither_load_balancer_nor_redis(outcomes: Outcomes) -> None:
    deployment = deployment_of(outcomes, "guest")
    for kind in ("aws_lb", "aws_lb_listener", "aws_elasticache_replication_group"):
        assert deployment.all(kind) == []
    assert [rule.priority for rule in deployment.rules] == [1100, 1300, 1200, 1400]


# --- alarms -------------------------------------------------------------------------------------


def test_the_alarms_that_were_asked_for(outcomes: Outcomes) -> None:
    alarms = {
        resource.address.split('"')[1]: resource.values
        for resource in deployment_of(outcomes, "production").all("aws_cloudwatch_metric_alarm")
    }
    elb = alarms["elb-502"]
    assert elb["metric_name"] == "HTTPCode_ELB_502_Count"
    assert {*elb["dimensions"]} == {"LoadBalancer"}, "it has no TargetGroup dimension"
    assert elb["treat_missing_data"] == "notBreaching", "it is silent at zero"
    for name in ("target-5xx", "unhealthy-hosts", "no-healthy-host", "p99"):
        assert {*alarms[name]["dimensions"]} == {"LoadBalancer", "TargetGroup"}
    assert alarms["p99"]["extended_statistic"] == "p99"
    assert {"upstream-502", "circuit-open", "service-discovery", "mlflow-tasks"} < {*alarms}


def test_every_alarm_on_a_log_metric_has_a_filter_that_makes_it(outcomes: Outcomes) -> None:
    deployment = deployment_of(outcomes, "production")
    made = {
        (part["namespace"], part["name"])
        for resource in deployment.all("aws_cloudwatch_log_metric_filter")
        for part in resource.values["metric_transformation"]
    }
    wanted = {
        (resource.values["namespace"], resource.values["metric_name"])
        for resource in deployment.all("aws_cloudwatch_metric_alarm")
        if not resource.values["namespace"].startswith(("AWS/", "ECS/"))
    }
    assert wanted
    assert wanted <= made


def test_every_alarm_rings_somewhere_and_none_twice(outcomes: Outcomes) -> None:
    deployment = deployment_of(outcomes, "production")
    composite = deployment.only("aws_cloudwatch_composite_alarm", "unavailable")
    for resource in deployment.all("aws_cloudwatch_metric_alarm"):
        in_composite = f'ALARM("{resource.values["alarm_name"]}")' in composite["alarm_rule"]
        assert bool(resource.values["alarm_actions"]) is not in_composite
    assert composite["alarm_actions"]


# --- planted faults -----------------------------------------------------------------------------


@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if m.terraform], ids=str)
def test_a_planted_fault_is_caught_in_the_state(outcomes: Outcomes, mutation: Mutation) -> None:
    """Terraform itself finds nothing wrong with it."""
    assert outcomes[mutation.terraform].status == "pass"
    assert mutation.caught_by in complaints(deployment_of(outcomes, mutation.terraform))


@pytest.mark.parametrize("name", REFUSED)
def test_the_module_refuses_what_aws_would(outcomes: Outcomes, name: str) -> None:
    assert outcomes[name].status in ("fail", "error")
    for sentence in REFUSED[name][1]:
        assert sentence in outcomes[name].said


def test_the_faults_of_one_mutant_are_caught_by_different_checks() -> None:
    caught = [(m.terraform, m.caught_by) for m in MUTATIONS if m.terraform]
    assert len(caught) == len({*caught}) == 6


# --- a plan -------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_plan_needs_no_network(terraform: Terraform, tmp_path: Path, environment: str) -> None:
    """With invented credentials, and nobody at the endpoint."""
    module = scratch_copy(tmp_path / "infrastructure") / "terraform"
    (module / "zz_override.tf").write_text(OFFLINE, "utf-8")
    terraform.run(module, "init", "-no-color")
    variables = (f"-var-file={environment}.tfvars", "-var-file=tests/mock.auto.tfvars")
    said = terraform.run(module, "plan", "-no-color", "-refresh=false", *variables).stdout
    assert "0 to change, 0 to destroy" in said
    assert f'"http://mlflow.hokusai-{environment}.local:5000"' in said


# --- where terraform is found -------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """A machine with terraform on its PATH, and nothing else."""
    program = tmp_path / "bin/terraform"
    program.parent.mkdir()
    program.touch(0o755)
    return {"PATH": str(program.parent), "HOME": str(tmp_path / "home")}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder with providers in it, for this machine and for others."""
    for system in ("linux_amd64", "linux_arm64", "darwin_amd64", "darwin_arm64"):
        folder = tmp_path / "mirror/registry.example.com/hashicorp/aws/5.100.0" / system
        folder.mkdir(parents=True)
        (folder / "terraform-provider-aws_v5.100.0_x5").touch()
    return tmp_path / "mirror"


def test_a_mirror_is_found_by_variable(
    machine: dict[str, str], mirror: Path, tmp_path: Path
) -> None:
    find(machine | {"TF_PLUGIN_DIR": str(mirror)}, tmp_path)
    assert f'path = "{mirror}"' in (tmp_path / "cli.tfrc").read_text("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        'provider_installation {\n  filesystem_mirror {\n    path = "%s"\n  }\n}\n',
        'plugin_cache_dir = "%s"\n',
    ],
)
def test_a_mirror_is_found_by_the_configuration_of_the_cli(
    machine: dict[str, str], mirror: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "theirs.tfrc").write_text(text % mirror, "utf-8")
    find(machine | {"TF_CLI_CONFIG_FILE": str(tmp_path / "theirs.tfrc")}, tmp_path)
    assert f'path = "{mirror}"' in (tmp_path / "cli.tfrc").read_text("utf-8")


def test_a_mirror_is_found_in_the_home_folder(
    machine: dict[str, str], mirror: Path, tmp_path: Path
) -> None:
    plugins = Path(machine["HOME"]) / ".terraform.d/plugins"
    plugins.parent.mkdir(parents=True)
    mirror.rename(plugins)
    find(machine, tmp_path)
    assert f'path = "{plugins}"' in (tmp_path / "cli.tfrc").read_text("utf-8")


def test_a_machine_without_terraform_says_so(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="terraform is not on the PATH"):
        find({"PATH": str(tmp_path)}, tmp_path)


@pytest.mark.parametrize(("required", "word"), [("", "1 skipped"), ("1", "1 error")])
def test_without_terraform_a_test_is_skipped_or_fails_if_it_is_required(
    tmp_path: Path, required: str, word: str
) -> None:
    test = f"{Path(__file__).relative_to(ROOT)}::test_the_files_are_in_terraforms_own_format"
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": os.environ["HOME"], "REQUIRE_TERRAFORM": required},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert word in finished.stdout
    assert "terraform is not on the PATH" in finished.stdout
