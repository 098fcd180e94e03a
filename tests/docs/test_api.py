"""docs/api.md tells what the code says: errors, scopes, the headers that stay outside; and
docs/observability.md the metrics."""

from collections.abc import Iterator

import pytest
from prometheus_client.metrics import MetricWrapperBase

from app.auth.authorization import (
    ADMIN_SCOPES,
    DELETE_SCOPES,
    GATEWAY_SCOPES,
    READ_SCOPES,
    WRITE_SCOPES,
)
from app.observability import metrics
from app.request.errors import ClientGone, ProxyError
from app.request.route_table import KINDS
from app.upstream.headers import NOT_FORWARDED_PREFIXES
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")


def leaves(parent: type[ProxyError]) -> Iterator[type[ProxyError]]:
    """The errors that have none below them, in a tree of errors."""
    children = [
        child for child in parent.__subclasses__() if child.__module__ == "app.request.errors"
    ]
    for child in children:
        yield from leaves(child)
    if not children:
        yield parent


@pytest.mark.parametrize("error", list(leaves(ProxyError)), ids=lambda error: error.__name__)
def test_each_error_has_its_row(error: type[ProxyError]) -> None:
    assert f"\n| {error.status} | `{error.code}` | `{error.outcome}` | " in PAGE


def test_a_client_that_hung_up_has_its_row() -> None:
    assert f"\n| 400 | `BAD_REQUEST` | `{ClientGone.outcome}` | " in PAGE


@pytest.mark.parametrize(
    "scopes", [READ_SCOPES, WRITE_SCOPES, DELETE_SCOPES, GATEWAY_SCOPES, ADMIN_SCOPES], ids=min
)
def test_the_scopes_of_a_row_grant_the_same(scopes: frozenset[str]) -> None:
    rows = [row for row in PAGE.splitlines() if row.startswith("| `")]
    assert any(scopes == set(row.split("|")[1].split("`")[1::2]) - {"is_admin"} for row in rows)


METRICS_PAGE = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
METRICS = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_each_metric_is_listed(metric: MetricWrapperBase) -> None:
    (family,) = metric.describe()
    suffix = "_total" if family.type == "counter" else ""
    assert f"\n| `{family.name}{suffix}` | " in METRICS_PAGE


@pytest.mark.parametrize("prefix", NOT_FORWARDED_PREFIXES)
def test_each_prefix_that_is_not_passed_on_is_named(prefix: str) -> None:
    assert f"`{prefix}*`" in PAGE.lower()


def test_each_endpoint_type_is_listed() -> None:
    row = next(line for line in METRICS_PAGE.splitlines() if line.startswith("| kind |"))
    assert set(row.split("|")[2].split("`")[1::2]) == KINDS | {"own", "unclassified"}
