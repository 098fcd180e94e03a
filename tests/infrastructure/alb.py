"""How an AWS application load balancer chooses, and what it refuses.

Rules are tried by priority; all conditions of a rule must match, one value of each is enough.
Hosts are compared without case, paths with; `*` stands for any characters, `/` too, and `?` for
one. A path pattern sees the path only, never the query. What is not understood here is refused
with `NotUnderstood`: a rule that is misread would prove nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any


class NotUnderstood(Exception):
    """A condition or action that this evaluator has no semantics for."""


@dataclass(frozen=True)
class Action:
    """What happens with a request: `kind` is forward, fixed-response or redirect; `targets` are the
    target groups with their weights; `status` is that of a fixed response or a redirect."""

    kind: str
    targets: tuple[tuple[str, int], ...] = ()
    status: str = ""

    def shares(self) -> dict[str, float]:
        """Target group -> its share of the requests. Weight 0 gets none."""
        whole = sum(weight for _, weight in self.targets)
        return {group: weight / whole for group, weight in self.targets if weight}

    def renamed(self, names: Mapping[str, str]) -> "Action":
        """The same with other names for the target groups; unknown ones keep theirs."""
        targets = tuple((names.get(group, group), weight) for group, weight in self.targets)
        return replace(self, targets=targets)


@dataclass(frozen=True)
class Rule:
    """One rule of a listener; no hosts or no paths means any."""

    priority: int
    action: Action
    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    name: str = field(default="", compare=False)

    def matches(self, host: str, path: str) -> bool:
        """Whether all conditions hold."""
        on_host = not self.hosts or any(like(p.lower(), host.lower()) for p in self.hosts)
        return on_host and (not self.paths or any(like(p, path) for p in self.paths))

    def renamed(self, names: Mapping[str, str]) -> "Rule":
        """The same with other names for the target groups."""
        return replace(self, action=self.action.renamed(names))

    def __str__(self) -> str:
        return f"rule {self.priority}{f' ({self.name})' if self.name else ''}"


def like(pattern: str, text: str) -> bool:
    """Whether a pattern matches the whole text."""
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(c) or re.escape(c) for c in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def decide(rules: Iterable[Rule], default: Action, host: str, path: str) -> Action:
    """The action for a request."""
    for rule in sorted(rules, key=lambda rule: rule.priority):
        if rule.matches(host, path):
            return rule.action
    return default


# --- two rules that want the same request -------------------------------------------------------


def shadowed(rules: Iterable[Rule]) -> Iterator[tuple[Rule, Rule, str]]:
    """Each pair of rules that some request matches both, the earlier first, and what both want."""
    known = sorted(rules, key=lambda rule: rule.priority)
    for i, earlier in enumerate(known):
        for later in known[i + 1 :]:
            hosts = _common([p.lower() for p in earlier.hosts], [p.lower() for p in later.hosts])
            paths = _common(earlier.paths, later.paths)
            if hosts and paths:
                yield earlier, later, f"{hosts} {paths}"


def _common(one: Iterable[str], other: Iterable[str]) -> str:
    """Two patterns out of two conditions that some text matches both; "" where there are none."""
    for a in list(one) or ["*"]:
        for b in list(other) or ["*"]:
            if intersect(a, b):
                return a if a == b else f"{a} & {b}"
    return ""


@cache
def intersect(a: str, b: str) -> bool:
    """Whether some text matches both patterns."""
    if not a or not b:
        return not (a + b).strip("*")
    if a[0] == "*":
        return intersect(a[1:], b) or intersect(a, b[1:])
    if b[0] == "*":
        return intersect(b, a)
    return (a[0] == b[0] or "?" in (a[0], b[0])) and intersect(a[1:], b[1:])


# --- what AWS refuses ---------------------------------------------------------------------------


def refusals(rules: Iterable[Rule]) -> Iterator[str]:
    """What apply would fail at, though validate and plan find nothing wrong."""
    seen: dict[int, Rule] = {}
    for rule in rules:
        if rule.priority in seen:
            yield f"{rule} has the priority of {seen[rule.priority]}"
        seen[rule.priority] = rule
        if not 1 <= rule.priority <= 50_000:
            yield f"{rule}: a priority is 1 to 50000"
        if len(rule.hosts) + len(rule.paths) > 5:
            yield f"{rule} has more than five condition values"
        if not rule.hosts + rule.paths:
            yield f"{rule} has no condition"
        for value in rule.hosts + rule.paths:
            if not re.fullmatch(r"[A-Za-z0-9_\-.$/~\"'@:+&*?]{1,128}", value):
                yield f"{rule}: {value!r} is too long, or has characters that no pattern may have"
        for group, weight in rule.action.targets:
            if not 0 <= weight <= 999:
                yield f"{rule}: the weight of {group} is not 0 to 999"


# --- reading them -------------------------------------------------------------------------------


def rule_from_terraform(values: dict[str, Any], name: str = "") -> Rule:
    """An `aws_lb_listener_rule`, as a state holds it."""
    found: dict[str, tuple[str, ...]] = {}
    for condition in values["condition"]:
        kinds = {kind: block for kind, block in condition.items() if block}
        for kind, block in kinds.items():
            if kind not in ("host_header", "path_pattern") or kind in found:
                raise NotUnderstood(f"condition {kind} of rule {name}")
            found[kind] = tuple(value for part in block for value in part["values"])
    action = action_from_terraform(values["action"], name)
    hosts, paths = found.get("host_header", ()), found.get("path_pattern", ())
    return Rule(int(values["priority"]), action, hosts, paths, name)


def action_from_terraform(blocks: list[dict[str, Any]], name: str = "") -> Action:
    """An `action` or `default_action`."""
    if len(blocks) != 1:
        raise NotUnderstood(f"{len(blocks)} actions in {name}")
    block = blocks[0]
    if block["type"] == "forward":
        if block.get("target_group_arn"):
            return Action("forward", ((block["target_group_arn"], 1),))
        groups = [group for part in block["forward"] for group in part["target_group"]]
        return Action("forward", tuple((g["arn"], int(_weight(g.get("weight")))) for g in groups))
    if block["type"] == "fixed-response":
        return Action("fixed-response", status=str(block["fixed_response"][0]["status_code"]))
    if block["type"] == "redirect":
        return Action("redirect", status=str(block["redirect"][0]["status_code"]))
    raise NotUnderstood(f"action {block['type']} in {name}")


def rule_from_aws(rule: dict[str, Any]) -> Rule:
    """A rule that is not the default, as `describe_rules` gives it."""
    found: dict[str, tuple[str, ...]] = {}
    configs = {"host-header": "HostHeaderConfig", "path-pattern": "PathPatternConfig"}
    for condition in rule["Conditions"]:
        kind = condition["Field"]
        if kind not in configs or kind in found:
            raise NotUnderstood(f"condition {kind}")
        # The old spelling stands beside the new one, or instead of it.
        config = condition.get(configs[kind]) or condition
        found[kind] = tuple(config["Values"])
    hosts, paths = found.get("host-header", ()), found.get("path-pattern", ())
    return Rule(int(rule["Priority"]), action_from_aws(rule["Actions"]), hosts, paths)


def action_from_aws(actions: list[dict[str, Any]]) -> Action:
    """The actions of a rule or listener, as boto3 gives them."""
    if len(actions) != 1:
        raise NotUnderstood(f"{len(actions)} actions")
    action = actions[0]
    if action["Type"] == "forward":
        groups = action.get("ForwardConfig", {}).get("TargetGroups")
        if not groups:
            return Action("forward", ((action["TargetGroupArn"], 1),))
        targets = tuple((g["TargetGroupArn"], int(_weight(g.get("Weight")))) for g in groups)
        return Action("forward", targets)
    if action["Type"] == "fixed-response":
        return Action("fixed-response", status=str(action["FixedResponseConfig"]["StatusCode"]))
    if action["Type"] == "redirect":
        return Action("redirect", status=str(action["RedirectConfig"]["StatusCode"]))
    raise NotUnderstood(f"action {action['Type']}")


def _weight(given: Any) -> Any:
    """A weight; one where none is given. Zero is given."""
    return 1 if given is None else given
