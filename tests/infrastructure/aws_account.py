"""Asks what answers in AWS's place, in the environment that has boto3; prints JSON.

    python aws_account.py prepare     what a deployment finds there: network, certificate
    python aws_account.py plant       a rule to MLflow's port, past Terraform; what undoes it
    python aws_account.py remove RULE GROUP
    python aws_account.py describe    what is there

Where and as whom is in the environment, as for any tool of AWS.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import boto3


def prepare() -> dict[str, Any]:
    """The default network and a certificate, as variables of the Terraform module."""
    ec2 = boto3.client("ec2")
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    inside = [{"Name": "vpc-id", "Values": [vpc["VpcId"]]}]
    subnets = ec2.describe_subnets(Filters=inside)["Subnets"]
    (group,) = ec2.describe_security_groups(Filters=inside)["SecurityGroups"]
    certificate = boto3.client("acm").request_certificate(DomainName="registry.hokus.ai")
    ids = [subnet["SubnetId"] for subnet in subnets]
    return {
        "region": boto3.session.Session().region_name,
        "availability_zones": sorted(subnet["AvailabilityZone"] for subnet in subnets),
        "vpc_id": vpc["VpcId"],
        "private_subnet_ids": ids,
        "public_subnet_ids": ids,
        "certificate_arn": certificate["CertificateArn"],
        "mlflow_database": {"security_group_id": group["GroupId"], "port": 5432},
    }


def plant() -> list[str]:
    """A target group on port 5000 and a rule that forwards to it; their ARNs."""
    elb = boto3.client("elbv2")
    (balancer,) = elb.describe_load_balancers()["LoadBalancers"]
    listeners = elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
    (https,) = [listener for listener in listeners if listener["Port"] == 443]
    made = elb.create_target_group(
        Name="mlflow", Protocol="HTTP", Port=5000, VpcId=balancer["VpcId"], TargetType="ip"
    )
    group = made["TargetGroups"][0]["TargetGroupArn"]
    rule = elb.create_rule(
        ListenerArn=https["ListenerArn"],
        Priority=150,
        Conditions=[{"Field": "path-pattern", "Values": ["/ajax-api/*"]}],
        Actions=[{"Type": "forward", "TargetGroupArn": group}],
    )
    return [rule["Rules"][0]["RuleArn"], group]


def remove(rule: str, group: str) -> None:
    """Undoes `plant`."""
    elb = boto3.client("elbv2")
    elb.delete_rule(RuleArn=rule)
    elb.delete_target_group(TargetGroupArn=group)


def describe() -> dict[str, Any]:
    """Load balancers with listeners, rules and target groups; doors; task definitions."""
    elb, ec2, ecs = (boto3.client(name) for name in ("elbv2", "ec2", "ecs"))
    balancers = [
        found
        | {"Attributes": _pairs(elb.describe_load_balancer_attributes, found, "LoadBalancerArn")}
        for found in elb.describe_load_balancers()["LoadBalancers"]
    ]
    listeners = [
        listener | {"Rules": elb.describe_rules(ListenerArn=listener["ListenerArn"])["Rules"]}
        for found in balancers
        for listener in elb.describe_listeners(LoadBalancerArn=found["LoadBalancerArn"])[
            "Listeners"
        ]
    ]
    groups = [
        found
        | {"Attributes": _pairs(elb.describe_target_group_attributes, found, "TargetGroupArn")}
        for found in elb.describe_target_groups()["TargetGroups"]
    ]
    tasks = [
        ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
        for arn in ecs.list_task_definitions(status="ACTIVE")["taskDefinitionArns"]
    ]
    return {
        "balancers": balancers,
        "listeners": listeners,
        "groups": groups,
        "tasks": tasks,
        "security_groups": ec2.describe_security_groups()["SecurityGroups"],
        "doors": ec2.describe_security_group_rules()["SecurityGroupRules"],
        "names": boto3.client("servicediscovery").list_services()["Services"],
        "alarms": boto3.client("cloudwatch").describe_alarms()["MetricAlarms"],
        "log_groups": boto3.client("logs").describe_log_groups()["logGroups"],
    }


def _pairs(ask: Any, found: dict[str, Any], arn: str) -> dict[str, str]:
    """Attributes, which come as a list of pairs."""
    return {pair["Key"]: pair["Value"] for pair in ask(**{arn: found[arn]})["Attributes"]}


if __name__ == "__main__":
    done: dict[str, Callable[..., object]]
    done = {"prepare": prepare, "plant": plant, "remove": remove, "describe": describe}
    print(json.dumps(done[sys.argv[1]](*sys.argv[2:]), default=str))
