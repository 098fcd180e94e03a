"""Calls of MLflow's AI gateway: two credentials, each to where it belongs."""

from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.upstreams import Upstream
from tests.wire import Response, call

CHAT = "/api/mlflow/gateway/openai/v1/chat/completions"
SEARCH = "/api/mlflow/api/2.0/mlflow/runs/search"
PROVIDERS = "Bearer sk-of-the-provider"


@pytest.fixture(scope="module")
def gateway_key(auth_service: Any) -> str:
    return str(auth_service.create_key(scopes=["mlflow:read", "mlflow:gateway"]).key)


def ask(front: Proxy, *fields: str, target: str = CHAT) -> Response:
    return call(front.url, "POST", target, *fields, "Content-Type: application/json", body=b"{}")


@pytest.mark.parametrize("own", ["X-API-Key: {}", "X-MLflow-Authorization: Bearer {}"])
@pytest.mark.parametrize("theirs", [PROVIDERS, "AWS4-HMAC-SHA256 Credential=a/b, Signature=c"])
def test_the_providers_credential_goes_on_and_ours_does_not(
    front: Proxy, upstream: Upstream, gateway_key: str, own: str, theirs: str
) -> None:
    answer = ask(front, own.format(gateway_key), f"Authorization: {theirs}")
    assert answer.status == 200
    assert answer.all("X-Hokusai-Dropped-Headers") == []
    seen = upstream.requests[-1]
    assert seen.all("Authorization") == [theirs]
    assert seen.all("X-MLflow-Authorization") == seen.all("X-API-Key") == []


@pytest.mark.parametrize(
    "forms",
    [
        ["Authorization: Bearer {}"],
        *(
            ["X-API-Key: {}", f"Authorization: {form}"]
            for form in ("Bearer {}", "{}", "Token {}", 'Bearer "{}"', "Bearer: {}", "Key key={}")
        ),
    ],
)
def test_our_key_never_goes_to_a_provider(
    front: Proxy, upstream: Upstream, gateway_key: str, forms: list[str]
) -> None:
    assert ask(front, *(form.format(gateway_key) for form in forms)).status == 200
    assert upstream.requests[-1].all("Authorization") == []


@pytest.mark.parametrize("field", ["x-goog-api-key", "api-key"])
def test_a_field_for_a_providers_key_goes_on_unless_it_has_ours(
    front: Proxy, upstream: Upstream, gateway_key: str, field: str
) -> None:
    for value, sent in (("AIza-of-the-provider", ["AIza-of-the-provider"]), (gateway_key, [])):
        own = f"Authorization: Bearer {gateway_key}"
        assert ask(front, own, f"{field}: {value}").status == 200
        assert upstream.requests[-1].all(field) == sent


def test_the_proxys_own_token_is_not_taken_for_the_clients(
    start_front: Any, upstream: Upstream, gateway_key: str
) -> None:
    """MLflow passes Authorization on to the provider for programs that have these names."""
    behind = start_front(MLFLOW_UPSTREAM_TOKEN="token")
    program = "User-Agent: codex_cli_rs/0.1"
    assert ask(behind, f"Authorization: Bearer {gateway_key}", program).status == 200
    seen = upstream.requests[-1]
    assert seen.all("Authorization") == ["Bearer token"]
    assert "codex" not in str(seen.all("User-Agent"))
    fields = (f"X-API-Key: {gateway_key}", f"Authorization: {PROVIDERS}", program)
    assert ask(behind, *fields).status == 200
    seen = upstream.requests[-1]
    assert seen.all("X-MLflow-Authorization") == ["Bearer token"]
    assert seen.all("Authorization") == [PROVIDERS]
    assert f"User-Agent: {seen.one('User-Agent')}" == program


@pytest.mark.parametrize("form", ["Bearer {}", "Token {}"])
def test_two_keys_of_ours_are_refused(
    front: Proxy, upstream: Upstream, gateway_key: str, form: str
) -> None:
    another = f"Authorization: {form.format('hk_test_another')}"
    answer = ask(front, f"X-API-Key: {gateway_key}", another)
    assert answer.error == (400, "BAD_REQUEST")
    assert upstream.requests == []


def test_elsewhere_two_keys_are_refused_as_ever(
    front: Proxy, upstream: Upstream, gateway_key: str
) -> None:
    fields = (f"X-API-Key: {gateway_key}", f"Authorization: {PROVIDERS}")
    assert ask(front, *fields, target=SEARCH).error == (400, "BAD_REQUEST")
    assert upstream.requests == []


def test_the_proxys_own_password_does_not_go_to_a_provider(
    start_front: Any, upstream: Upstream, gateway_key: str
) -> None:
    behind = start_front(MLFLOW_UPSTREAM_USERNAME="proxy", MLFLOW_UPSTREAM_PASSWORD="secret")
    for theirs in ([], [PROVIDERS]):
        fields = [f"Authorization: {credential}" for credential in theirs]
        assert ask(behind, f"X-API-Key: {gateway_key}", *fields).status == 200
        seen = upstream.requests[-1]
        assert seen.all("X-MLflow-Authorization") == ["Basic cHJveHk6c2VjcmV0"]
        assert seen.all("Authorization") == theirs
