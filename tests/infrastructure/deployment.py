"""What would be deployed, in the words of the checks: rules, target groups, doors, times.

Read from resources, wherever they come from: the HCL files (hcl.py), the state of `terraform test`
(terraform.py). Resources that could make a way around what is read here are refused.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.infrastructure.alb import (
    Action,
    NotUnderstood,
    Rule,
    action_from_terraform,
    rule_from_terraform,
)

ROOT = Path(__file__).resolve().parents[2]
INFRASTRUCTURE = ROOT / "infrastructure"

#: Other spellings of what is read, and ways to open a door that are not looked at.
REFUSED = re.compile(
    r"aws_alb\w*|aws_security_group_rule|aws_network_interface_sg_attachment|aws_default_\w+"
    r"|aws_lb_target_group_attachment|aws_apigateway\w*|aws_vpclattice\w*|aws_globalaccelerator\w*"
)


#: What a door's port is where a variable says it.
UNKNOWN_PORT = -1


@dataclass(frozen=True)
class Resource:
    """One resource: its type, name, address and attributes."""

    kind: str
    name: str
    address: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Door:
    """A rule of a security group: `group` may be reached (in) or may reach out (out), on ports
    `low` to `high`, from or to `peer`, a group's name or a range of addresses."""

    direction: str
    group: str
    low: int
    high: int
    peer: str
    protocol: str = "tcp"

    def __str__(self) -> str:
        ports = str(self.low) if self.low == self.high else f"{self.low}-{self.high}"
        return f"{self.direction}: {self.group} {self.protocol} {ports} {self.peer}"


@dataclass
class Deployment:
    """All that the checks look at. `groups` are the target groups by name, `defaults` the default
    actions of the listeners, `containers` the container definitions by name."""

    contract: dict[str, Any]
    rules: list[Rule] = field(default_factory=list)
    defaults: list[Action] = field(default_factory=list)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    doors: list[Door] = field(default_factory=list)
    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    resources: list[Resource] = field(default_factory=list)

    def all(self, kind: str) -> list[Resource]:
        """The resources of one type."""
        return [resource for resource in self.resources if resource.kind == kind]

    def only(self, kind: str, name: str) -> dict[str, Any]:
        """The attributes of the one resource of this type and name."""
        (found,) = [r for r in self.all(kind) if r.name == name]
        return found.values

    @property
    def environment(self) -> dict[str, str]:
        """The proxy's environment variables. Where the list cannot be worked out without terraform,
        those of the contract."""
        given = self.containers["proxy"]["environment"]
        if isinstance(given, list):
            return {variable["name"]: variable["value"] for variable in given}
        return dict(self.contract["proxy"]["environment"])


def read(resources: Iterable[Resource], infrastructure: Path = INFRASTRUCTURE) -> Deployment:
    """The deployment that these resources make; `infrastructure` holds routes.json.

    Raises NotUnderstood for what could open a way that is not seen here.
    """
    contract = json.loads((infrastructure / "routes.json").read_text("utf-8"))
    found = Deployment(contract, resources=list(resources))
    _refuse_what_is_not_seen(found)
    names = _names(found.resources)
    for group in found.all("aws_lb_target_group"):
        found.groups[group.name] = group.values
    for listener in found.all("aws_lb_listener"):
        action = action_from_terraform(listener.values["default_action"], listener.name)
        found.defaults.append(action.renamed(names))
    for rule in found.all("aws_lb_listener_rule"):
        label = rule.address.partition("aws_lb_listener_rule.")[2]
        found.rules.append(rule_from_terraform(rule.values, label).renamed(names))
    for direction, kind in (("in", "ingress"), ("out", "egress")):
        for rule in found.all(f"aws_vpc_security_group_{kind}_rule"):
            found.doors.append(_door(direction, rule, names))
    for task in found.all("aws_ecs_task_definition"):
        definitions = task.values["container_definitions"]
        for container in json.loads(definitions) if isinstance(definitions, str) else definitions:
            found.containers[container["name"]] = container
    return found


def _refuse_what_is_not_seen(found: Deployment) -> None:
    for resource in found.resources:
        if REFUSED.fullmatch(resource.kind):
            raise NotUnderstood(f"{resource.address}: say it with the resources that are read here")
    for group in found.all("aws_security_group"):
        if group.values.get("ingress") or group.values.get("egress"):
            raise NotUnderstood(f"{group.address} has rules inside; make them resources")


def _names(resources: Iterable[Resource]) -> dict[str, str]:
    """What stands for a resource elsewhere -> its name: its ARN, its id, or, without terraform, its
    type and name. Two that cannot be told apart have no name, and so are not what is expected."""
    names: dict[str, str] = {}
    for resource in resources:
        if resource.kind in ("aws_lb_target_group", "aws_security_group"):
            for handle in (
                resource.values.get("arn"),
                resource.values.get("id"),
                f"{resource.kind}.{resource.name}",
            ):
                if isinstance(handle, str):
                    names[handle] = resource.name if names.get(handle) is None else "ambiguous"
    return names


def _door(direction: str, rule: Resource, names: dict[str, str]) -> Door:
    values = rule.values
    peers = [
        values[name]
        for name in ("referenced_security_group_id", "cidr_ipv4", "cidr_ipv6", "prefix_list_id")
        if values.get(name)
    ]
    if len(peers) != 1:
        raise NotUnderstood(f"{rule.address} has {len(peers)} peers")
    low, high = values.get("from_port"), values.get("to_port")
    everything = values["ip_protocol"] == "-1" or low is None or high is None
    return Door(
        direction,
        names.get(values["security_group_id"], values["security_group_id"]),
        0 if everything else _port(low),
        65535 if everything else _port(high),
        names.get(peers[0], peers[0]),
        values["ip_protocol"],
    )


def _port(given: Any) -> int:
    """A port; UNKNOWN_PORT where it depends on a variable, and there is no terraform to ask."""
    return given if isinstance(given, int) else UNKNOWN_PORT
