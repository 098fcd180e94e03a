"""The dashboard and the alert rules: what they ask is what the proxy says, in Prometheus' words."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import parser

from app.observability.metrics import CIRCUITS, LISTENER_STATES, STATES
from app.request import errors
from app.request.route_table import KINDS
from devstack.proxy import Proxy
from tests.docs.pages import ROOT, anchors
from tests.upstreams import Answer, Upstream, eventually, send, sized
from tests.wire import bearer, call

FOLDER = ROOT / "infrastructure/monitoring"
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "alert-rules.yaml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

#: What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$job": ".+", "$instance": ".+"}

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"


def filled_in(text: str) -> str:
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text


EXPRESSIONS = [(rule["alert"], rule["expr"]) for rule in RULES] + [
    (f"{panel['title']} {target['refId']}", filled_in(target["expr"]))
    for panel in PANELS
    for target in panel["targets"]
]
EACH_EXPRESSION = pytest.mark.parametrize(
    "expression", [text for _, text in EXPRESSIONS], ids=[name for name, _ in EXPRESSIONS]
)
EACH_RULE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


# --- what the proxy says -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, auth_service: Any, redis_url: str) -> str:
    """A real scrape after one ordinary request."""
    with Upstream() as fake:
        fake.answers(Answer(send(sized(b"{}"))))
        settings = {
            "MLFLOW_SERVER_URL": fake.url,
            "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
            "REDIS_URL": redis_url,
            "WEB_CONCURRENCY": "1",
            "GRACEFUL_TIMEOUT": "2",
        }
        proxy = Proxy(tmp_path_factory.mktemp("proxy"), settings, ready="/health")
        try:
            proxy.start()
            proxy.wait_until_ready()
            key = auth_service.create_key(limit=10).key
            answer = call(proxy.url, "POST", SEARCH, bearer(key), body=b"{}")
            assert answer.status == 200
            eventually(lambda: "forwarded" in scraped(proxy), "the request to be counted")
            return scraped(proxy)
        finally:
            proxy.kill()


def scraped(proxy: Proxy) -> str:
    return call(proxy.url, "GET", "/metrics").body.decode()


@pytest.fixture(scope="module")
def samples(text: str) -> dict[str, list[dict[str, str]]]:
    """The labels of all samples of the scrape, by name."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found | {"up": [{}]}  # which Prometheus adds


# --- what is asked -------------------------------------------------------------------------------


def selectors(expression: str) -> Iterator[tuple[str, list[Any]]]:
    """(metric, matchers) of each selector in an expression."""
    ahead = [promql_parser.parse(expression)]
    while ahead:
        node = ahead.pop()
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name is not None
            yield node.name, node.matchers.matchers
        for part in ("lhs", "rhs", "expr", "vector_selector", "args"):
            below = getattr(node, part, None)
            ahead += below if isinstance(below, list) else [below] if below is not None else []


@EACH_EXPRESSION
def test_every_metric_and_label_exists(
    expression: str, samples: dict[str, list[dict[str, str]]]
) -> None:
    asked = [*selectors(expression)]
    assert asked
    for name, matchers in asked:
        assert name in samples, f"{name} is in no scrape"
        labels = {label for sample in samples[name] for label in sample}
        for matcher in matchers:
            assert matcher.name in labels | {"job", "instance"}, f"{name} has no {matcher.name}"


@EACH_EXPRESSION
def test_what_it_groups_by_exists(
    expression: str, samples: dict[str, list[dict[str, str]]]
) -> None:
    labels = {label for name, _ in selectors(expression) for label in samples[name][0]}
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    assert {label for group in grouped for label in re.split(r", *", group)} <= (
        labels | {"job", "instance"}
    )


#: The values that a label can have; those of the other labels are all in the first scrape.
OUTCOMES = {
    error.outcome
    for error in vars(errors).values()
    if isinstance(error, type) and hasattr(error, "outcome")
} | {"forwarded", "own", "broken_transfer"}
VALUES = {
    "kind": KINDS | {"own", "unclassified"},
    "outcome": OUTCOMES,
    "status": {"0xx", "2xx", "3xx", "4xx", "5xx"},
    "circuit": set(CIRCUITS),
    "state": {*STATES, *LISTENER_STATES},
}


@EACH_EXPRESSION
def test_every_label_can_have_the_value_that_is_asked_for(
    expression: str, samples: dict[str, list[dict[str, str]]]
) -> None:
    for name, matchers in selectors(expression):
        for matcher in matchers:
            if matcher.name in ("job", "instance"):
                continue
            seen = {sample.get(matcher.name, "") for sample in samples[name]}
            known = VALUES.get(matcher.name, seen)
            assert set(matcher.value.split("|")) <= known, f"{name}: {matcher.name}"


# --- the rules -----------------------------------------------------------------------------------


@EACH_RULE
def test_an_alert_says_what_is_wrong_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"([A-Z][a-z]+)+", rule["alert"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"].endswith(".")
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor == "-".join(re.findall("[A-Z][a-z]+", rule["alert"])).lower()
    assert anchor in anchors(ROOT / page)


@EACH_RULE
def test_an_alert_fires_for_what_lasts_and_compares_it_with_a_bound(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"[0-9]+m", rule.get("for", "0m"))
    top = promql_parser.parse(rule["expr"])
    assert isinstance(top, promql_parser.BinaryExpr) or rule["expr"].startswith("absent(")


def test_no_two_alerts_have_one_name() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 10


def test_each_alert_is_in_the_documentation() -> None:
    page = (ROOT / "docs/runbook.md").read_text("utf-8")
    assert [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in page] == []


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    cases = yaml.safe_load((FOLDER / "alert-rules.test.yaml").read_text("utf-8"))["tests"]
    fired = re.findall(r'alertname="(\w+)"', repr(cases))
    assert sorted(fired) == sorted(rule["alert"] for rule in RULES)


@pytest.mark.parametrize("command", ["check rules alert-rules.yaml", "check metrics"])
def test_promtool_finds_nothing(command: str, text: str) -> None:
    assert promtool(command, text) == ""


def test_promtool_sees_each_alert_fire_and_none_without_cause() -> None:
    assert promtool("test rules alert-rules.test.yaml") == ""


def promtool(command: str, given: str = "") -> str:
    """What Prometheus' own tool complains of; it is in no package registry that a test can use."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool on this machine")
    done = subprocess.run(
        [program, *command.split()], cwd=FOLDER, input=given, capture_output=True, text=True
    )
    return done.stderr if done.returncode == 0 else done.stdout + done.stderr


# --- the dashboard -------------------------------------------------------------------------------


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_can_be_drawn(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["targets"]
    assert panel["datasource"]["uid"] == "${datasource}", "whichever Prometheus there is"
    place = panel["gridPos"]
    assert place["x"] + place["w"] <= 24


def test_no_two_panels_stand_in_one_place() -> None:
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_dashboards_variables_are_made_of_a_metric_that_exists(
    samples: dict[str, list[dict[str, str]]],
) -> None:
    queries = [
        variable["query"]["query"]
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    ]
    assert len(queries) == 2
    for query in queries:
        found = re.fullmatch(r"label_values\((.+), (job|instance)\)", query)
        assert found
        ((name, _),) = selectors(filled_in(found[1]))
        assert name in samples
