"""The checks. Each looks at a `Deployment` and gives its complaints, none where all is well.

`CHECKS` names them; a mutation says by name which one must catch it.
"""

import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from tests.infrastructure import alb
from tests.infrastructure.deployment import UNKNOWN_PORT, Deployment, Door
from tests.infrastructure.hcl import Unknown
from tests.infrastructure.request_table import STOPPED, THROUGH
from tests.infrastructure.served import served

Check = Callable[[Deployment], Iterator[str]]
CHECKS: dict[str, Check] = {}

#: Priorities at least this far apart, so that a rule fits in between without moving others.
GAP = 10

# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
FARGATE_MIB = {
    256: {512, 1024, 2048},
    512: set(range(1024, 4097, 1024)),
    1024: set(range(2048, 8193, 1024)),
    2048: set(range(4096, 16385, 1024)),
    4096: set(range(8192, 30721, 1024)),
    8192: set(range(16384, 61441, 4096)),
    16384: set(range(32768, 122881, 8192)),
}


def check(name: str) -> Callable[[Check], Check]:
    """Gives a check its name."""

    def register(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return register


def complaints(deployment: Deployment) -> dict[str, list[str]]:
    """What is wrong, by the name of the check that says so."""
    found = {name: list(function(deployment)) for name, function in CHECKS.items()}
    return {name: said for name, said in found.items() if said}


# --- where requests go --------------------------------------------------------------------------


@check("the table of requests")
def table(deployment: Deployment) -> Iterator[str]:
    """Each request of the table goes where it should, all of it."""
    port = deployment.contract["proxy"]["port"]
    for expected, requests in ((True, THROUGH), (False, STOPPED)):
        for host, path in requests:
            for default in deployment.defaults:
                if default.kind == "redirect":
                    continue  # the plain HTTP listener, which has no rules
                action = alb.decide(deployment.rules, default, host, path)
                ports = {_port(deployment, group) for group in action.shares()}
                if ports != ({port} if expected else set()):
                    yield f"{host}{path} gets {action}"


@check("no rule shadows another")
def shadowing(deployment: Deployment) -> Iterator[str]:
    """No request matches two rules: the table knows some requests, this knows all."""
    for earlier, later, wanted in alb.shadowed(deployment.rules):
        yield f"{earlier} takes {wanted} from {later}"


@check("nothing reaches MLflow's port")
def mlflows_port(deployment: Deployment) -> Iterator[str]:
    """Every target group that requests can reach is one on the proxy's port."""
    actions = [(str(rule), rule.action) for rule in deployment.rules]
    actions += [("the default", action) for action in deployment.defaults]
    for name, action in actions:
        for group, _ in action.targets:  # at weight 0 too: it is a change away
            if _port(deployment, group) != deployment.contract["proxy"]["port"]:
                yield f"{name} forwards to {group}"
    for name, found in deployment.groups.items():
        if found["port"] != deployment.contract["proxy"]["port"]:
            yield f"target group {name} is on port {found['port']}"


@check("priorities have gaps")
def gaps(deployment: Deployment) -> Iterator[str]:
    """There is room for a rule between any two."""
    priorities = sorted(rule.priority for rule in deployment.rules)
    for one, next_one in itertools.pairwise(priorities):
        if next_one - one < GAP:
            yield f"nothing fits between {one} and {next_one}"


def _port(deployment: Deployment, group: str) -> Any:
    return deployment.groups.get(group, {}).get("port")


# --- how long things take -----------------------------------------------------------------------


@check("time-outs fit together")
def timeouts(deployment: Deployment) -> Iterator[str]:
    """Each pair of times in the order that it must have. What gunicorn does, gunicorn says."""
    proxy = served(deployment.environment)
    settings = proxy.settings
    group = deployment.groups["proxy"]
    (health,) = group["health_check"]
    alb_idle = _idle(deployment)
    stop = deployment.containers["proxy"]["stopTimeout"]
    deregistration = int(group["deregistration_delay"])
    noticed = health["interval"] * health["unhealthy_threshold"] + health["timeout"]
    longest_silence = (
        max(
            settings.mlflow_read_timeout,
            settings.mlflow_artifact_read_timeout,
            settings.mlflow_artifact_copy_timeout,
        )
        + settings.mlflow_connect_timeout
        + settings.mlflow_retry_deadline
    )
    below = [
        ("ALB idle", alb_idle, "the proxy's keep-alive", proxy.keepalive),
        ("the proxy's wait for MLflow", longest_silence, "ALB idle", alb_idle),
        ("a client's silence", settings.client_idle_timeout, "ALB idle", alb_idle),
        ("the drain delay", settings.drain_delay, "graceful", proxy.graceful_timeout),
        ("graceful", proxy.graceful_timeout, "the stop time-out", stop),
        ("a health check's time-out", health["timeout"], "its interval", health["interval"]),
        ("HEALTH_TIMEOUT", settings.health_timeout, "the check's time-out", health["timeout"]),
        (
            "reuse of MLflow's",
            settings.mlflow_keepalive,
            "MLflow's keep-alive",
            _uvicorn(deployment),
        ),
    ]
    for name, low, other, high in below:
        if not low < high:
            yield f"{name} ({low:g} s) must be below {other} ({high:g} s)"
    longest = deployment.contract["timeouts"]["longest_transfer"]
    if deregistration < longest:
        yield f"the deregistration delay ({deregistration} s) ends transfers of {longest} s"
    if settings.drain_delay < noticed:
        yield f"/ready says 503 for {settings.drain_delay:g} s, but is noticed after {noticed} s"


def _idle(deployment: Deployment) -> int:
    """The load balancer's idle time-out; that of the contract where the balancer is not ours."""
    for balancer in deployment.all("aws_lb"):
        return int(balancer.values["idle_timeout"])
    return int(deployment.contract["timeouts"]["alb_idle"])


def _option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1] if name in command else ""


def _uvicorn(deployment: Deployment) -> int:
    """MLflow's keep-alive: uvicorn's 5 s where it is not given."""
    options = shlex.split(_option(deployment.containers["mlflow"]["command"], "--uvicorn-opts"))
    return int(_option(options, "--timeout-keep-alive") or 5)


# --- what AWS accepts ---------------------------------------------------------------------------


@check("AWS accepts it")
def aws(deployment: Deployment) -> Iterator[str]:
    """What validate and plan let pass, and apply fails at."""
    yield from alb.refusals(deployment.rules)
    yield from _refused_balancers(deployment)
    yield from _refused_tasks(deployment)
    for redis in deployment.all("aws_elasticache_replication_group"):
        if redis.values.get("auth_token") and not redis.values["transit_encryption_enabled"]:
            yield f"{redis.address}: a password without TLS"


def _refused_balancers(deployment: Deployment) -> Iterator[str]:
    for balancer in deployment.all("aws_lb"):
        if not 1 <= int(balancer.values["idle_timeout"]) <= 4000:
            yield "an idle time-out is 1 to 4000 s"
    for name, group in deployment.groups.items():
        yield from (f"target group {name}: {said}" for said in _refused_group(group))
    for listener in deployment.all("aws_lb_listener"):
        if listener.values["protocol"] == "HTTPS" and not listener.values.get("certificate_arn"):
            yield f"{listener.address} is HTTPS without a certificate"


def _refused_tasks(deployment: Deployment) -> Iterator[str]:
    for task in deployment.all("aws_ecs_task_definition"):
        cpu, memory = task.values["cpu"], task.values["memory"]
        if not isinstance(cpu, Unknown) and int(memory) not in FARGATE_MIB.get(int(cpu), ()):
            yield f"{task.address}: Fargate has no {cpu} with {memory} MiB"
    for name, container in deployment.containers.items():
        if not 2 <= container["stopTimeout"] <= 120:
            yield f"container {name}: a stop time-out is 2 to 120 s on Fargate"


def _refused_group(group: dict[str, Any]) -> Iterator[str]:
    (health,) = group["health_check"]
    if not 5 <= health["interval"] <= 300:
        yield "a health check's interval is 5 to 300 s"
    if not 2 <= health["timeout"] <= 120 or health["timeout"] >= health["interval"]:
        yield "a health check's time-out is 2 to 120 s, and below the interval"
    if not all(2 <= health[f"{kind}healthy_threshold"] <= 10 for kind in ("", "un")):
        yield "a health check's thresholds are 2 to 10"
    if not 0 <= int(group.get("deregistration_delay") or 300) <= 3600:
        yield "a deregistration delay is 0 to 3600 s"
    least_outstanding = group.get("load_balancing_algorithm_type") == "least_outstanding_requests"
    if group.get("slow_start") and least_outstanding:
        yield "slow start does not go with least outstanding requests"


# --- who may do what ----------------------------------------------------------------------------


@check("no door is open but these")
def doors(deployment: Deployment) -> Iterator[str]:
    """Clients to the load balancer, it to the proxy, the proxy to MLflow and Redis; out of proxy
    and MLflow besides to HTTPS, and to one port each for the auth service and the database."""
    own = {group.name for group in deployment.all("aws_security_group")}
    ports = {name: deployment.contract[name]["port"] for name in ("proxy", "mlflow", "redis")}
    # Behind somebody else's load balancer: its group, which is not ours to name.
    balancer = "alb" if "alb" in own else _foreign_group(deployment.doors)
    inside = {
        ("in", "proxy", ports["proxy"], balancer),
        ("in", "mlflow", ports["mlflow"], "proxy"),
        ("out", "proxy", ports["mlflow"], "mlflow"),
    }
    if "alb" in own:
        inside |= {("out", "alb", ports["proxy"], "proxy")}
    if "redis" in own:
        inside |= {("in", "redis", ports["redis"], "proxy")}
        inside |= {("out", "proxy", ports["redis"], "redis")}
    seen = set()
    for door in deployment.doors:
        key = (door.direction, door.group, door.low, door.peer)
        if key in inside and door.low == door.high and door.protocol == "tcp":
            seen.add(key)
        elif not _to_others(door, deployment):
            yield f"open: {door}"
    for missing in inside - seen:
        yield f"missing: {missing}"


def _foreign_group(doors: list[Door]) -> str:
    """The one security group that the proxy lets in; "" where there is none, or more than one."""
    found = {door.peer for door in doors if (door.direction, door.group) == ("in", "proxy")}
    groups = {peer for peer in found if peer.startswith("sg-")}
    return groups.pop() if len(groups) == 1 else ""


def _to_others(door: Door, deployment: Deployment) -> bool:
    """A way in for clients, or a way out to somebody else: HTTPS anywhere; for the proxy the port
    of the auth service too, and a Redis of somebody else's; for MLflow a database, in a group."""
    if door.protocol != "tcp" or door.low != door.high:
        return False
    anywhere = "/" in door.peer or door.peer == "each.value"  # a range of addresses
    if door.direction == "in":
        return door.group == "alb" and door.low in (80, 443)
    if door.group == "mlflow":
        return door.low == 443 if anywhere else door.peer not in ("alb", "proxy", "redis")
    if door.group == "proxy" and anywhere:
        return door.low in (443, _auth_port(deployment))
    return door.group == "proxy" and door.low == deployment.contract["redis"]["port"]


def _auth_port(deployment: Deployment) -> int:
    """The auth service's port; that of an unknown one, as a door has it, without terraform."""
    url = urlsplit(deployment.environment.get("HOKUSAI_AUTH_SERVICE_URL", ""))
    return url.port or {"https": 443, "http": 80}.get(url.scheme, UNKNOWN_PORT)


@check("containers are shut")
def containers(deployment: Deployment) -> Iterator[str]:
    """A root file system that cannot be written, no capability, no secret among the variables."""
    for name, container in deployment.containers.items():
        if container.get("readonlyRootFilesystem") is not True:
            yield f"{name} may write to its root file system"
        if container.get("linuxParameters", {}).get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name} keeps capabilities"
        if container.get("privileged"):
            yield f"{name} is privileged"
        for variable in _list(container.get("environment")):
            if re.search(r"SECRET|TOKEN|PASSWORD|REDIS_URL|STORE_URI", variable["name"]):
                yield f"{name} has {variable['name']} in plain sight"
    if str(deployment.containers["proxy"].get("user", "0")).partition(":")[0] in ("0", "root"):
        yield "the proxy runs as root"


@check("rights are few")
def rights(deployment: Deployment) -> Iterator[str]:
    """No statement is for all actions or, but for the one that AWS wants so, all resources."""
    for policy in deployment.all("aws_iam_role_policy"):
        document = policy.values["policy"]
        parsed = json.loads(document) if isinstance(document, str) else document
        for statement in _list(parsed["Statement"]):
            actions, resources = statement["Action"], statement["Resource"]
            if any("*" in action for action in actions):
                yield f"{policy.address} allows {actions}"
            if "*" in resources and actions != ["ecr:GetAuthorizationToken"]:
                yield f"{policy.address} allows {actions} on everything"
    for attachment in deployment.all("aws_iam_role_policy_attachment"):
        yield f"{attachment.address}: a policy that is not written here"


def _list(given: Any) -> list[Any]:
    """A list; empty where it cannot be worked out without terraform."""
    return given if isinstance(given, list) else []


# --- that it runs on ----------------------------------------------------------------------------


@check("a bad version is rolled back")
def rollback(deployment: Deployment) -> Iterator[str]:
    """Both services have a circuit breaker, and keep the old tasks until the new ones are well."""
    for service in deployment.all("aws_ecs_service"):
        if service.values.get("deployment_circuit_breaker") != [{"enable": True, "rollback": True}]:
            yield f"{service.address} does not go back by itself"
        if service.values.get("deployment_minimum_healthy_percent") != 100:
            yield f"{service.address} stops tasks before new ones are well"
        if not service.values.get("service_registries"):
            yield f"{service.address} cannot be found by name"
        for network in service.values["network_configuration"]:
            if network.get("assign_public_ip"):
                yield f"{service.address} has a public address"
    if len(deployment.all("aws_ecs_service")) != 2:
        yield "there are two services, proxy and MLflow"


@check("health is asked where it is told")
def health(deployment: Deployment) -> Iterator[str]:
    """The load balancer asks /ready, the containers are asked for life only."""
    (asked,) = deployment.groups["proxy"]["health_check"]
    if asked["path"] != "/ready" or asked["matcher"] != "200":
        yield f"the load balancer asks {asked['path']} for {asked['matcher']}"
    for name, container in deployment.containers.items():
        said = " ".join(container.get("healthCheck", {}).get("command", []))
        port = deployment.contract[name]["port"]
        if f"http://127.0.0.1:{port}/health'" not in said:
            yield f"container {name} has no health check on port {port}"


@check("the load balancer is strict")
def strict(deployment: Deployment) -> Iterator[str]:
    """Requests that two servers could read differently do not get through."""
    wanted = {
        "desync_mitigation_mode": "strictest",
        "drop_invalid_header_fields": True,
        "xff_header_processing_mode": "append",
    }
    for balancer in deployment.all("aws_lb"):
        for name, value in wanted.items():
            if balancer.values.get(name) != value:
                yield f"{balancer.address}: {name} is not {value}"
