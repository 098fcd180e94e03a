"""What MLflow is shown of the caller: a signature that its module checks, or nothing."""

import hashlib
import hmac

import pytest

from app.request.errors import Forbidden, UpstreamRefusal
from app.upstream.identity import OWN_USER, Signer
from app.upstream.request_head import TARGET
from tests.app.samples import inbound, permit
from tests.app.upstream.forwarders import MakeForwarder, forward, whole
from tests.upstreams import Answer, Upstream, send, sized

SECRET = "hk_test_of_a_proxy_and_an_mlflow"


def signature(*lines: str, secret: str = SECRET) -> str:
    """Of these lines, the second one of which is the time."""
    message = "\n".join(lines).encode()
    return f"{lines[1]}.{hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()}"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a/b", "/a/b", ""),
        ("/a?b=%41&c", "/a", "b=%41&c"),
        ("/a%20%C3%BC%2F", "/a ü/", ""),
        ("/a%252520b", "/a b", ""),
        ("/100%25%09", "/100%", ""),
    ],
)
def test_what_is_signed(target: str, path: str, query: str) -> None:
    headers = {TARGET: target, "X-Hokusai-User-Id": "ann", "X-Hokusai-Key-Id": "k1"}
    Signer(SECRET, lambda: 1795896000.9).sign("PUT", headers)
    expected = signature("hokusai-1", "1795896000", "PUT", path, query, "ann")
    assert headers["X-Hokusai-Signature"] == expected


def test_without_a_secret_or_a_user_nothing_is_signed() -> None:
    for signer, named in ((Signer(""), {"X-Hokusai-User-Id": "ann"}), (Signer(SECRET), {})):
        headers = {TARGET: "/a", **named}
        signer.sign("GET", headers)
        assert headers == {TARGET: "/a", **named}
    assert Signer("").own == {}


def test_a_path_of_many_escapes_is_signed_in_a_moment() -> None:
    headers = {TARGET: "/" + "%25" * 20_000, "X-Hokusai-User-Id": "ann"}
    Signer(SECRET).sign("GET", headers)
    assert "X-Hokusai-Signature" in headers


def test_each_request_goes_out_signed_with_the_path_that_mlflow_sees(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    forwarder = make_forwarder(f"{mlflow.url}/base", mlflow_identity_secret=SECRET)
    forward(forwarder, "POST", "/mlflow/a%20b?c=d", body=whole(b"{}"))
    forwarder.ask("/health", 1.0)
    for asked, method, path, query in zip(
        mlflow.requests, ("POST", "GET"), ("/base/a b", "/base/health"), ("c=d", ""), strict=True
    ):
        user = str(asked.one("X-Hokusai-User-Id"))
        sent = str(asked.one("X-Hokusai-Signature"))
        moment = sent.partition(".")[0]
        assert sent == signature("hokusai-1", moment, method, path, query, user)
    assert mlflow.requests[1].one("X-Hokusai-User-Id") == OWN_USER


def test_no_caller_acts_as_the_proxy(mlflow: Upstream, make_forwarder: MakeForwarder) -> None:
    forwarder = make_forwarder(mlflow.url, mlflow_identity_secret=SECRET)
    headers = {TARGET: "/a", "X-Hokusai-User-Id": OWN_USER, "X-Hokusai-Key-Id": "k1"}
    with pytest.raises(Forbidden, match="the proxy's own"):
        forwarder._signer.sign("GET", headers)


def test_a_missing_permission_is_the_callers_once_mlflow_knows_the_caller(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    forwarder = make_forwarder(mlflow.url, mlflow_identity_secret=SECRET)
    mlflow.answers(Answer(send(sized(b"Permission denied", 403))))
    answer = forward(forwarder)
    assert (answer.status, answer.data) == (403, b"Permission denied")
    mlflow.answers(Answer(send(sized(b"refused", 401))))
    with pytest.raises(UpstreamRefusal, match="MLFLOW_IDENTITY_SECRET"):
        forwarder.forward(permit(inbound("GET", "/mlflow/a")), whole(b""))
