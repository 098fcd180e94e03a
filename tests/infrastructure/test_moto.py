"""Deployed to a stand-in for AWS on this machine, read back, and taken down: `make test-aws`.

moto answers on the loopback interface; no call leaves the machine. What it cannot do is in
moto/*.tf, and listed in infrastructure/terraform/README.md.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.environments import AWS
from devstack.ports import HOST, free_port
from devstack.server import Server, answers
from tests.conftest import DEVELOPERS_ENVIRONMENT
from tests.infrastructure.alb import action_from_aws, rule_from_aws
from tests.infrastructure.checks import complaints
from tests.infrastructure.deployment import Deployment, Resource, read
from tests.infrastructure.terraform import Terraform, scratch_copy

HERE = Path(__file__).parent
REGION = "eu-central-1"
PREFIX = "hokusai-development-"

#: A Redis is never ready in moto, and apply waits; the module is told of one that exists already.
EXISTING_REDIS = {
    "create_redis": False,
    "redis_auth_token": None,
    "redis_url_secret_arn": f"arn:aws:secretsmanager:{REGION}:000000000000:secret:redis-mock",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not DEVELOPERS_ENVIRONMENT.get("TEST_AWS"), reason="opt-in: make test-aws"),
]


class Moto(Server):
    """AWS's stand-in, and a way to ask it with boto3."""

    name = "moto"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        command = [AWS.folder / "bin/moto_server", "-H", HOST, "-p", str(self.port)]
        super().__init__(
            list(map(str, command)), folder, {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
        )

    def is_ready(self) -> bool:
        return answers(f"{self.url}/moto-api/")

    def ask(self, *arguments: str) -> Any:
        """What aws_account.py prints."""
        environment = {
            "PATH": os.environ["PATH"],
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "invented",
            "AWS_SECRET_ACCESS_KEY": "invented",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        finished = subprocess.run(
            [AWS.python, HERE / "aws_account.py", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)


@pytest.fixture
def moto(tmp_path: Path) -> Iterator[Moto]:
    server = Moto(tmp_path / "moto")
    server.start()
    server.wait_until_ready()
    yield server
    server.stop()


@pytest.fixture
def folder(terraform: Terraform, moto: Moto, tmp_path: Path) -> Path:
    """A copy of the module with development's variables, told of the network that is there."""
    module = scratch_copy(tmp_path / "infrastructure") / "terraform"
    shutil.copy(HERE / "moto/moto_override.tf", module)
    shutil.copy(module / "development.tfvars", module / "a.auto.tfvars")
    shutil.copy(module / "tests/mock.auto.tfvars", module / "b.auto.tfvars")
    found = json.dumps(moto.ask("prepare") | EXISTING_REDIS)
    (module / "c.auto.tfvars.json").write_text(found, "utf-8")
    terraform.run(module, "init", "-no-color")
    return module


def test_from_apply_to_destroy(terraform: Terraform, moto: Moto, folder: Path) -> None:
    def run(*arguments: str, status: int = 0) -> None:
        finished = terraform.run(folder, *arguments, "-no-color", endpoint=moto.url, check=False)
        assert finished.returncode == status, finished.stdout[-6000:] + finished.stderr

    run("apply", "-auto-approve")
    run("plan", "-detailed-exitcode")  # 2 where what is there is not what is written
    run("plan", "-var-file=production.tfvars", status=1)  # another environment's variables

    assert faults(moto) == {}
    there = moto.ask("describe")
    assert {name["Name"] for name in there["names"]} == {"mlflow", "mlflow-proxy"}
    assert len(there["alarms"]) == 9
    assert len(there["log_groups"]) == 2

    planted = moto.ask("plant")
    assert "nothing reaches MLflow's port" in faults(moto), "what Terraform does not know is seen"
    run("plan", "-detailed-exitcode")
    moto.ask("remove", *planted)

    run("destroy", "-auto-approve")
    assert [len(moto.ask("describe")[kind]) for kind in ("balancers", "groups", "alarms")] == [
        0
    ] * 3


def faults(moto: Moto) -> dict[str, list[str]]:
    """What the checks say of what is there. Moto forgets the services' circuit breakers."""
    found = complaints(deployment_of(moto.ask("describe")))
    found.pop("a bad version is rolled back")
    return found


def deployment_of(there: dict[str, Any]) -> Deployment:
    """The answers of the API, in the words of Terraform."""
    deployment = read(resources(there))
    names = {group["TargetGroupArn"]: short(group["TargetGroupName"]) for group in there["groups"]}
    for listener in there["listeners"]:
        deployment.defaults.append(action_from_aws(listener["DefaultActions"]).renamed(names))
        for rule in listener["Rules"]:
            if not rule["IsDefault"]:
                deployment.rules.append(rule_from_aws(rule).renamed(names))
    return deployment


def short(name: str) -> str:
    """A resource's name in the module, from its name in AWS."""
    name = name.removeprefix(PREFIX)
    return "proxy" if name == "mlflow-proxy" else name


def resources(there: dict[str, Any]) -> Iterator[Resource]:
    def resource(kind: str, name: str, values: dict[str, Any]) -> Resource:
        return Resource(kind, name, f"{kind}.{name}", values)

    for balancer in there["balancers"]:
        given = balancer["Attributes"]
        strict = given["routing.http.drop_invalid_header_fields.enabled"] == "true"
        values = {
            "idle_timeout": given["idle_timeout.timeout_seconds"],
            "desync_mitigation_mode": given["routing.http.desync_mitigation_mode"],
            "xff_header_processing_mode": given["routing.http.xff_header_processing.mode"],
            "drop_invalid_header_fields": strict,
        }
        yield resource("aws_lb", "this", values)
    for group in there["groups"]:
        health = {
            "path": group["HealthCheckPath"],
            "matcher": group["Matcher"]["HttpCode"],
            "interval": group["HealthCheckIntervalSeconds"],
            "timeout": group["HealthCheckTimeoutSeconds"],
            "healthy_threshold": group["HealthyThresholdCount"],
            "unhealthy_threshold": group["UnhealthyThresholdCount"],
        }
        values = {
            "arn": group["TargetGroupArn"],
            "port": group["Port"],
            "health_check": [health],
            "deregistration_delay": group["Attributes"]["deregistration_delay.timeout_seconds"],
        }
        yield resource("aws_lb_target_group", short(group["TargetGroupName"]), values)
    ours = {
        group["GroupId"]: short(group["GroupName"])
        for group in there["security_groups"]
        if group["GroupName"].startswith(PREFIX)
    }
    for group, name in ours.items():
        yield resource("aws_security_group", name, {"id": group})
    for door in there["doors"]:
        if door["GroupId"] in ours:
            kind = "egress" if door["IsEgress"] else "ingress"
            values = {
                "security_group_id": door["GroupId"],
                "referenced_security_group_id": door.get("ReferencedGroupInfo", {}).get("GroupId"),
                "cidr_ipv4": door.get("CidrIpv4"),
                "cidr_ipv6": door.get("CidrIpv6"),
                "ip_protocol": door["IpProtocol"],
                "from_port": door["FromPort"],
                "to_port": door["ToPort"],
            }
            name = door["SecurityGroupRuleId"]
            yield resource(f"aws_vpc_security_group_{kind}_rule", name, values)
    for task in there["tasks"]:
        values = {
            "cpu": task["cpu"],
            "memory": task["memory"],
            "container_definitions": task["containerDefinitions"],
        }
        yield resource("aws_ecs_task_definition", short(task["family"]), values)
