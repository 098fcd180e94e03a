"""The evaluator itself: it chooses as AWS documents it, and does not guess."""

from typing import Any

import pytest

from tests.infrastructure.alb import (
    Action,
    NotUnderstood,
    Rule,
    action_from_aws,
    decide,
    intersect,
    like,
    refusals,
    rule_from_aws,
    rule_from_terraform,
    shadowed,
)

NOTHING = Action("fixed-response", status="404")


def to(*groups: str) -> Action:
    return Action("forward", tuple((group, 1) for group in groups))


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("/api/mlflow/*", "/api/mlflow/", True),
        ("/api/mlflow/*", "/api/mlflow/a/b/c", True),
        ("/api/mlflow/*", "/api/mlflow", False),
        ("/mlflow*", "/mlflow-admin", True),
        ("/a?c", "/abc", True),
        ("/a?c", "/a/c", True),
        ("/a?c", "/ac", False),
        ("/a.c", "/abc", False),
        ("*", "", True),
        ("/*.png", "/x/y.png", True),
        ("/A", "/a", False),
    ],
)
def test_a_pattern(pattern: str, text: str, matches: bool) -> None:
    assert like(pattern, text) is matches


def test_a_host_is_compared_without_case_and_a_path_with() -> None:
    rule = Rule(1, to("proxy"), ("*.Hokus.ai",), ("/A/*",))
    assert rule.matches("REGISTRY.hokus.AI", "/A/x")
    assert not rule.matches("registry.hokus.ai", "/a/x")


def test_all_conditions_must_match_and_no_condition_matches_all() -> None:
    rule = Rule(1, to("proxy"), ("a.example",), ("/x", "/y"))
    assert [rule.matches(h, p) for h, p in [("a.example", "/y"), ("b.example", "/y")]] == [1, 0]
    assert Rule(1, to("proxy")).matches("anything", "/at/all")


def test_the_lowest_priority_is_first_whatever_the_order_they_come_in() -> None:
    rules = [Rule(20, to("b"), paths=("/*",)), Rule(10, to("a"), paths=("/x",))]
    assert decide(rules, NOTHING, "h", "/x") == to("a")
    assert decide(rules, NOTHING, "h", "/y") == to("b")
    assert decide(rules[1:], NOTHING, "h", "/y") == NOTHING


def test_weights_share_the_requests_and_zero_gets_none() -> None:
    action = Action("forward", (("blue", 3), ("green", 1), ("old", 0)))
    assert action.shares() == {"blue": 0.75, "green": 0.25}


@pytest.mark.parametrize(
    ("a", "b", "meet"),
    [
        ("/mlflow/*", "/mlflow", False),
        ("/mlflow/*", "/mlflow*", True),
        ("/api/*", "/api/mlflow/*", True),
        ("/*/health", "/api/*", True),
        ("/a*b", "/a*c", False),
        ("/a?", "/?b", True),
        ("/a?", "/a", False),
        ("*", "/x", True),
        ("*a*", "*b*", True),
        ("/health", "/api/health", False),
        ("", "*", True),
    ],
)
def test_two_patterns_meet(a: str, b: str, meet: bool) -> None:
    assert intersect(a, b) is meet
    assert intersect(b, a) is meet


def test_a_later_rule_that_an_earlier_one_reaches_into_is_found() -> None:
    first = Rule(10, to("proxy"), ("h",), ("/api/mlflow/*",))
    canary = Rule(20, to("canary"), ("?",), ("/api/mlflow/version",))
    apart = Rule(30, to("proxy"), ("H",), ("/health",))
    elsewhere = Rule(40, to("other"), ("other.example",), ("/api/*",))
    assert [(a, b) for a, b, _ in shadowed([elsewhere, apart, canary, first])] == [(first, canary)]


def test_what_aws_refuses() -> None:
    rules = [
        Rule(1, to("a"), ("h",), ("/1", "/2", "/3", "/4", "/5")),
        Rule(1, to("a"), ("h",)),
        Rule(0, to("a"), ("h",)),
        Rule(2, to("a")),
        Rule(3, to("a"), paths=("/a b",)),
        Rule(4, to("a"), paths=("/" + "x" * 128,)),
        Rule(5, Action("forward", (("a", 1000),)), ("h",)),
    ]
    assert len([*refusals(rules)]) == 7
    assert [*refusals([Rule(1, to("a"), ("h",), ("/1", "/2", "/3", "/4"))])] == []


def state(condition: dict[str, Any], **action: Any) -> dict[str, Any]:
    forward = {"type": "forward", "target_group_arn": "tg"}
    return {"priority": 7, "condition": [condition], "action": [action or forward]}


def test_a_rule_from_a_state_has_empty_blocks_for_what_it_does_not_use() -> None:
    condition = {"host_header": [], "path_pattern": [{"values": ["/x"]}], "source_ip": []}
    assert rule_from_terraform(state(condition)) == Rule(7, to("tg"), paths=("/x",))


def test_a_weighted_forward_is_the_same_in_both_spellings() -> None:
    condition = {"path_pattern": [{"values": ["/x"]}]}
    groups = [{"arn": "a", "weight": 0}, {"arn": "b", "weight": None}]
    rule = rule_from_terraform(state(condition, type="forward", forward=[{"target_group": groups}]))
    config = {"TargetGroups": [{"TargetGroupArn": "a", "Weight": 0}, {"TargetGroupArn": "b"}]}
    assert rule.action == action_from_aws([{"Type": "forward", "ForwardConfig": config}])
    assert rule.action.shares() == {"b": 1.0}


@pytest.mark.parametrize(
    "values", [{"Values": ["/x"]}, {"PathPatternConfig": {"Values": ["/x"]}, "Values": []}]
)
def test_a_rule_from_aws_in_the_old_spelling_and_the_new(values: dict[str, Any]) -> None:
    action = [{"Type": "forward", "TargetGroupArn": "tg"}]
    rule = {
        "Priority": "7",
        "Conditions": [{"Field": "path-pattern"} | values],
        "Actions": action,
    }
    assert rule_from_aws(rule) == Rule(7, to("tg"), paths=("/x",))


def test_what_it_does_not_know_it_refuses() -> None:
    with pytest.raises(NotUnderstood, match="source_ip"):
        rule_from_terraform(state({"source_ip": [{"values": ["192.0.2.0/24"]}]}))
    with pytest.raises(NotUnderstood, match="authenticate-oidc"):
        rule_from_terraform(state({}, type="authenticate-oidc"))
    with pytest.raises(NotUnderstood, match="http-header"):
        rule_from_aws({"Priority": "1", "Conditions": [{"Field": "http-header"}], "Actions": []})
    with pytest.raises(NotUnderstood, match="2 actions"):
        action_from_aws([{"Type": "forward"}, {"Type": "forward"}])
