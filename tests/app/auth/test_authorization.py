"""The scopes table of the contract; what nobody has classified needs admin."""

from dataclasses import fields

import pytest

from app.auth.authorization import authorize, granted
from app.request.errors import Forbidden
from app.request.permit import Permit
from app.request.principal import Principal
from app.request.route_table import Access, Route
from tests.app.samples import inbound, principal

READ, WRITE, DELETE, GATEWAY, ADMIN, REFUSED = tuple(Access)
ALL: set[Access] = {READ, WRITE, DELETE, GATEWAY, ADMIN}

TABLE: dict[str, set[Access]] = {
    "read": {READ},
    "mlflow:read": {READ},
    "write": {READ, WRITE, DELETE},
    "mlflow:write": {READ, WRITE, DELETE},
    "model:write": {READ, WRITE, DELETE},
    "mlflow:access": {READ, WRITE, DELETE},
    "full_access": {READ, WRITE, DELETE},
    "delete": {DELETE},
    "mlflow:delete": {DELETE},
    "gateway": {GATEWAY},
    "mlflow:gateway": {GATEWAY},
    "admin": ALL,
    "mlflow:admin": ALL,
    "registry:admin": ALL,
}
NOT_OURS = [
    "",
    "READ",
    "Admin",
    "read ",
    "model:read",
    "registry:read",
    "billing:admin",
    "mlflow:*",
]


def with_scopes(*scopes: str, is_admin: bool = False) -> Principal:
    return principal(scopes=frozenset(scopes), is_admin=is_admin)


def route(access: Access) -> Route:
    return Route(frozenset(("GET",)), "/version", access, "server", "GetVersion")


def refusal(who: Principal, needed: Route | None) -> str:
    with pytest.raises(Forbidden) as caught:
        authorize(who, inbound("DELETE", "/mlflow/version"), needed)
    return caught.value.message


@pytest.mark.parametrize(("scope", "accesses"), TABLE.items(), ids=TABLE.keys())
def test_a_scope_grants_what_the_contract_says(scope: str, accesses: set[Access]) -> None:
    assert granted(with_scopes(scope)) == accesses


@pytest.mark.parametrize("scope", NOT_OURS)
def test_a_scope_that_is_not_ours_grants_nothing(scope: str) -> None:
    assert granted(with_scopes(scope)) == set()


@pytest.mark.parametrize(
    ("scopes", "accesses"),
    [
        ((), set()),
        (("read", "billing:admin"), {READ}),
        (("mlflow:read", "model:write"), {READ, WRITE, DELETE}),
        (("read", "delete", "gateway"), {READ, DELETE, GATEWAY}),
        (("read", "write", "registry:admin"), ALL),
    ],
)
def test_several_scopes_grant_what_each_does(
    scopes: tuple[str, ...], accesses: set[Access]
) -> None:
    assert granted(with_scopes(*scopes)) == accesses


def test_is_admin_grants_everything_without_a_scope() -> None:
    assert granted(with_scopes(is_admin=True)) == ALL


@pytest.mark.parametrize(
    ("scopes", "accesses"),
    [
        (("write",), {READ, WRITE}),
        (("full_access", "mlflow:delete"), {READ, WRITE, DELETE}),
        (("read", "delete"), {READ, DELETE}),
        (("admin",), ALL),
    ],
)
def test_with_split_scopes_deleting_must_be_named(
    scopes: tuple[str, ...], accesses: set[Access]
) -> None:
    who = with_scopes(*scopes)
    assert granted(who, split_scopes=True) == accesses
    if DELETE not in accesses:
        with pytest.raises(Forbidden, match="'delete' \\('mlflow:delete'\\)"):
            authorize(who, inbound(), route(DELETE), split_scopes=True)


@pytest.mark.parametrize("scope", ["read", "write", "delete", "gateway", "admin"])
@pytest.mark.parametrize("needed", [READ, WRITE, DELETE, GATEWAY, ADMIN])
def test_a_route_opens_to_whom_it_is_granted(scope: str, needed: Access) -> None:
    who, asked = with_scopes(scope), inbound()
    if needed in TABLE[scope]:
        assert authorize(who, asked, route(needed)) == Permit(who, asked, route(needed))
    else:
        assert f"'{needed.value}' ('mlflow:{needed.value}')" in refusal(who, route(needed))


@pytest.mark.parametrize("scope", ["read", "write"])
def test_a_route_that_nobody_has_classified_needs_admin(scope: str) -> None:
    message = refusal(with_scopes(scope), None)
    assert "DELETE /version, which is not a known MLflow route, needs" in message
    assert "'mlflow:admin'" in message


def test_a_post_that_a_redirect_made_a_get_is_told_so() -> None:
    asked = inbound("GET", "/mlflow/api/2.0/mlflow/runs/create")
    with pytest.raises(Forbidden, match="a redirect made it a GET: use https://"):
        authorize(with_scopes("write"), asked, None)
    assert "redirect" not in refusal(with_scopes("write"), None)


def test_an_admin_may_use_a_route_that_nobody_has_classified() -> None:
    asked = inbound()
    assert authorize(with_scopes("admin"), asked, None).route is None


@pytest.mark.parametrize("who", [with_scopes("admin"), with_scopes(is_admin=True)])
def test_the_assistant_is_refused_to_everyone(who: Principal) -> None:
    assert "to everyone" in refusal(who, route(Access.REFUSED))


def test_a_permit_holds_the_very_request_that_was_authorized() -> None:
    asked = inbound("GET", "/mlflow/a%2fb?c=%2F")
    assert authorize(with_scopes("admin"), asked, None).inbound is asked
    assert [field.name for field in fields(Permit)] == [
        "principal",
        "inbound",
        "route",
        "provider",
        "workspace",
    ]
