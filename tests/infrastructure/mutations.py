"""Faults that somebody could plant by mistake, each with the check that must catch it.

A mutation edits a scratch copy of `infrastructure/`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Edit = Callable[[Path], None]


@dataclass(frozen=True)
class Mutation:
    """What is done, and which check says so. `terraform` names the mutant in which it is also tried
    with terraform, together with others that other checks must catch: each run costs seconds."""

    name: str
    caught_by: str
    edit: Edit
    terraform: str = ""

    def __str__(self) -> str:
        return self.name


def contract(change: Callable[[dict[str, Any]], None]) -> Edit:
    """A change to routes.json."""

    def edit(infrastructure: Path) -> None:
        file = infrastructure / "routes.json"
        content = json.loads(file.read_text("utf-8"))
        before = json.dumps(content)
        change(content)
        assert json.dumps(content) != before, "the mutation changes nothing"
        file.write_text(json.dumps(content), "utf-8")

    return edit


def replace(name: str, old: str, new: str) -> Edit:
    """Another text in one of the module's files, at its first place."""

    def edit(infrastructure: Path) -> None:
        file = infrastructure / "terraform" / name
        text = file.read_text("utf-8")
        assert old in text, f"{name} has no {old!r}"
        file.write_text(text.replace(old, new, 1), "utf-8")

    return edit


def add(text: str) -> Edit:
    """More resources in the module."""

    def edit(infrastructure: Path) -> None:
        with (infrastructure / "terraform" / "mutation.tf").open("a", encoding="utf-8") as file:
            file.write(text)

    return edit


def _route(content: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = [route for route in content["routes"] if route["name"] == name]
    return found


def _paths(route: str, *paths: str) -> Edit:
    return contract(lambda content: _route(content, route).update(paths=list(paths)))


def _new_route(priority: int, *paths: str) -> Edit:
    route = {"name": "new", "priority": priority, "paths": list(paths)}
    return contract(lambda content: content["routes"].append(route))


def _swap_times(one: str, other: str) -> Edit:
    def change(content: dict[str, Any]) -> None:
        times = content["timeouts"]
        times[one], times[other] = times[other], times[one]

    return contract(change)


def _time(name: str, seconds: int) -> Edit:
    return contract(lambda content: content["timeouts"].update({name: seconds}))


def _variable(name: str, value: str) -> Edit:
    return contract(lambda content: content["proxy"]["environment"].update({name: value}))


MLFLOW_GROUP = """
resource "aws_lb_target_group" "mlflow" {
  name        = "${local.name}-mlflow"
  vpc_id      = var.vpc_id
  target_type = "ip"
  protocol    = "HTTP"
  port        = local.mlflow_port

  health_check {
    path                = "/health"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}
"""

RULE_TO_MLFLOW = """
resource "aws_lb_listener_rule" "mlflow" {
  listener_arn = local.listener_arn
  priority     = 150

  condition {
    path_pattern {
      values = ["/ajax-api/*"]
    }
  }

  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.mlflow.arn
  }
}
"""

CANARY = """
resource "aws_lb_listener_rule" "canary" {
  listener_arn = local.listener_arn
  priority     = 400

  condition {
    path_pattern {
      values = ["/api/*/runs/*"]
    }
  }

  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.proxy.arn
  }
}
"""

OPEN_MLFLOW = """
resource "aws_vpc_security_group_ingress_rule" "mlflow_from_anywhere" {
  security_group_id = aws_security_group.mlflow.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = local.mlflow_port
  to_port           = local.mlflow_port
}
"""

PROXY_TO_ANY_DATABASE = """
resource "aws_vpc_security_group_egress_rule" "proxy_to_databases" {
  security_group_id = aws_security_group.proxy.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 5432
  to_port           = 5432
}
"""

WEIGHTED = """forward {
      target_group {
        arn    = aws_lb_target_group.proxy.arn
        weight = 99
      }
      target_group {
        arn    = aws_lb_target_group.mlflow.arn
        weight = 1
      }
    }"""


def _weighted(infrastructure: Path) -> None:
    add(MLFLOW_GROUP)(infrastructure)
    target = "target_group_arn = aws_lb_target_group.proxy.arn"
    replace("alb-listener-rules.tf", target, WEIGHTED)(infrastructure)


TABLE, SHADOW = "the table of requests", "no rule shadows another"
PORT, GAPS = "nothing reaches MLflow's port", "priorities have gaps"
TIMES, AWS, DOORS = "time-outs fit together", "AWS accepts it", "no door is open but these"
SHUT, BACK = "containers are shut", "a bad version is rolled back"
HEALTH, STRICT = "health is asked where it is told", "the load balancer is strict"
RIGHTS = "rights are few"

MUTATIONS = [
    # where requests go
    Mutation("a catch-all rule first", SHADOW, _new_route(1, "/*"), terraform="one"),
    Mutation("a catch-all rule first, seen by the table", TABLE, _new_route(1, "/*")),
    Mutation("a rule to MLflow", PORT, add(MLFLOW_GROUP + RULE_TO_MLFLOW), terraform="one"),
    Mutation("one request in a hundred to MLflow", PORT, _weighted, terraform="other"),
    Mutation("a target group for MLflow", PORT, add(MLFLOW_GROUP)),
    Mutation("/mlflow* for /mlflow/*", TABLE, _paths("mlflow", "/mlflow", "/mlflow*")),
    Mutation("/api/mlflow* alone", TABLE, _paths("api-mlflow", "/api/mlflow*")),
    Mutation("/mlflow dropped", TABLE, _paths("mlflow", "/mlflow/*")),
    Mutation("/api/mlflow dropped", TABLE, _paths("api-mlflow", "/api/mlflow/*")),
    Mutation("/api/health dropped", TABLE, _paths("health", "/health", "/api/health/*")),
    Mutation("the wrong host", TABLE, contract(lambda c: c.update(host="hokus.ai"))),
    Mutation("metrics made public", TABLE, _new_route(500, "/metrics")),
    Mutation("a canary behind another rule", SHADOW, add(CANARY), terraform="other"),
    Mutation("no room before a rule", GAPS, _new_route(199, "/new")),
    Mutation(
        "forward by default",
        TABLE,
        replace(
            "alb.tf",
            'type = "fixed-response"',
            'type = "forward"\n    target_group_arn = aws_lb_target_group.proxy.arn',
        ),
    ),
    # how long things take
    Mutation("stop and ALB idle swapped", TIMES, _swap_times("stop", "alb_idle")),
    Mutation(
        "health interval and time-out swapped",
        TIMES,
        _swap_times("health_interval", "health_timeout"),
    ),
    Mutation("ALB idle above keep-alive", TIMES, _time("alb_idle", 970)),
    Mutation("ALB idle below the wait for MLflow", TIMES, _time("alb_idle", 60)),
    Mutation("keep-alive below ALB idle", TIMES, _variable("KEEPALIVE", "75")),
    Mutation("graceful above stop", TIMES, _variable("GRACEFUL_TIMEOUT", "130")),
    Mutation("stop below graceful", TIMES, _time("stop", 90)),
    Mutation("no drain delay", TIMES, _variable("DRAIN_DELAY", "0")),
    Mutation("transfers cut at deregistration", TIMES, _time("deregistration_delay", 300)),
    Mutation("MLflow closes first", TIMES, _time("mlflow_keepalive", 5)),
    Mutation(
        "MLflow's keep-alive not given",
        TIMES,
        replace(
            "ecs-mlflow.tf",
            '"--uvicorn-opts", "--timeout-keep-alive ${local.timeouts.mlflow_keepalive}",',
            "",
        ),
    ),
    Mutation(
        "an idle time-out written beside the contract",
        TIMES,
        replace("alb.tf", "local.timeouts.alb_idle\n", "60\n"),
    ),
    # what AWS accepts
    Mutation(
        "six values in a condition",
        AWS,
        _paths("health", "/health", "/api/health", "/api/health/*", "/live", "/up"),
    ),
    Mutation("an idle time-out over 4000", AWS, _time("alb_idle", 5000)),
    Mutation("a health check longer than its interval", AWS, _time("health_timeout", 11)),
    Mutation("a stop time-out that Fargate has not", AWS, _time("stop", 300)),
    Mutation("two rules of one priority", AWS, _new_route(100, "/new")),
    Mutation(
        "a slow start",
        AWS,
        replace("alb.tf", "  health_check {", "  slow_start = 30\n\n  health_check {"),
        terraform="one",
    ),
    Mutation(
        "Redis with a password, without TLS",
        AWS,
        replace(
            "redis.tf", "transit_encryption_enabled = true", "transit_encryption_enabled = false"
        ),
    ),
    # who may do what
    Mutation("MLflow's security group open", DOORS, add(OPEN_MLFLOW), terraform="one"),
    Mutation("a way from the proxy to every database", DOORS, add(PROXY_TO_ANY_DATABASE)),
    Mutation(
        "the proxy open to the VPC",
        DOORS,
        replace(
            "security-groups.tf",
            "referenced_security_group_id = local.alb_security_group_id",
            'cidr_ipv4 = "10.0.0.0/8"',
        ),
    ),
    Mutation(
        "every port of MLflow",
        DOORS,
        replace(
            "security-groups.tf",
            "to_port                      = local.mlflow_port",
            "to_port = 65535",
        ),
    ),
    Mutation(
        "no door to Redis",
        DOORS,
        replace(
            "security-groups.tf",
            'resource "aws_vpc_security_group_ingress_rule" "redis_from_proxy"',
            'resource "aws_vpc_security_group_tag" "gone"',
        ),
    ),
    Mutation(
        "a root file system to write to",
        SHUT,
        replace("ecs-proxy.tf", "readonlyRootFilesystem = true", "readonlyRootFilesystem = false"),
    ),
    Mutation("the proxy as root", SHUT, replace("ecs-proxy.tf", "= var.proxy_user", '= "0:0"')),
    Mutation(
        "a secret among the variables",
        SHUT,
        replace(
            "ecs-mlflow.tf",
            '{ name = "HOME", value = "/tmp" }',
            '{ name = "DB_PASSWORD", value = "x" }',
        ),
    ),
    Mutation(
        "all secrets",
        RIGHTS,
        replace("ecs-iam.tf", "Resource = [local.artifact_bucket_arn]", 'Resource = ["*"]'),
    ),
    # that it runs on
    Mutation(
        "no circuit breaker", BACK, replace("ecs-proxy.tf", "rollback = true", "rollback = false")
    ),
    Mutation(
        "a public address",
        BACK,
        replace("ecs-mlflow.tf", "assign_public_ip = false", "assign_public_ip = true"),
    ),
    Mutation(
        "readiness at the wrong path",
        HEALTH,
        contract(lambda c: c["proxy"].update(ready_path="/health")),
    ),
    Mutation(
        "the load balancer monitors only", STRICT, replace("alb.tf", '"strictest"', '"monitor"')
    ),
    Mutation(
        "invalid headers let through",
        STRICT,
        replace(
            "alb.tf", "drop_invalid_header_fields = true", "drop_invalid_header_fields = false"
        ),
    ),
]


def together(*edits: Edit) -> Edit:
    """Several faults at once."""

    def edit(infrastructure: Path) -> None:
        for one in edits:
            one(infrastructure)

    return edit


#: The mutants that terraform makes: name -> the faults in it.
MUTANTS = {
    name: together(*(mutation.edit for mutation in MUTATIONS if mutation.terraform == name))
    for name in ("one", "other")
}

#: What the module itself refuses at plan, in sentences: name -> faults and sentences. Resources
#: with a fault must not depend on each other, for a refusal ends what depends on it.
REFUSED: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "rules_and_tasks": (
        together(
            _paths("health", "/health", "/api/health", "/api/health/*", "/live", "/up"),
            _new_route(60_000, "/" + "x" * 128),
            _time("stop", 300),
        ),
        (
            "A rule takes five condition values",
            "A rule's priority is at most 50000",
            "A path pattern begins with / and has at most 128",
            "timeouts.stop must be 2 to 120 seconds",
        ),
    ),
    "load_balancer_and_health": (
        together(
            _time("alb_idle", 5000),
            _time("health_timeout", 11),
            _time("deregistration_delay", 300),
        ),
        (
            "timeouts.alb_idle must be 1 to 4000",
            "timeouts.health_timeout must be below timeouts.health_interval",
            "timeouts.deregistration_delay must be at least timeouts.longest_transfer",
        ),
    ),
}
