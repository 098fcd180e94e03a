"""Browser sessions at the wire: what the cookie may do, and when it ends."""

import base64
import json
import re
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from devstack.auth_service import revocation
from devstack.proxy import Proxy
from tests.pipeline.signing_in import (
    BROWSER,
    CREATE,
    DECISION,
    FORM,
    HOME,
    NAVIGATION,
    OWN,
    SEARCH,
    SIGN_IN,
    SIGN_OUT,
    cookie_of,
    sign_in,
)
from tests.upstreams import Answer, Upstream, send, sized
from tests.wire import Wire, bearer, call, request

# --- the cookie ----------------------------------------------------------------------------------


def test_the_cookie_goes_to_our_paths_only(front: Proxy, key: str) -> None:
    answer = sign_in(front, key)
    assert (answer.status, answer.one("Location")) == (303, HOME)
    assert answer.one("Cache-Control") == "no-store"
    cookies = answer.all("Set-Cookie")
    assert {re.search("Path=([^;]*)", cookie)[1] for cookie in cookies} == {"/mlflow", "/status"}  # type: ignore[index]
    for cookie in cookies:
        assert cookie.startswith("hokusai-session=")
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert "Secure" not in cookie
        assert "Domain" not in cookie


@pytest.mark.parametrize(("proto", "secure"), [("https", True), ("http", False)])
def test_behind_tls_the_cookie_is_secure(
    start_front: Callable[..., Proxy], key: str, proto: str, secure: bool
) -> None:
    behind = start_front(TRUSTED_PROXY_HOPS=1)
    fields = (OWN, f"X-Forwarded-Proto: {proto}", "X-Forwarded-For: 127.0.0.1")
    for cookie in sign_in(behind, key, *fields).all("Set-Cookie"):
        assert cookie.startswith("__Secure-hokusai-session=") is secure
        assert ("; Secure" in cookie) is secure


def test_a_session_does_not_count_at_another_deployment_on_the_same_redis(
    front: Proxy, start_front: Callable[..., Proxy], key: str
) -> None:
    """Of its key the other auth service, or service, may think otherwise."""
    session = cookie_of(sign_in(front, key))
    other = start_front(HOKUSAI_AUTH_SERVICE_ID="billing")
    assert call(other.url, "GET", SEARCH, session).error == (401, "UNAUTHENTICATED")
    assert call(front.url, "GET", SEARCH, session).status == 200


def test_a_session_is_who_signed_in_and_its_cookie_stays_here(
    front: Proxy, upstream: Upstream, auth_service: Any
) -> None:
    key = auth_service.create_key(user="ann", scopes=["read"])
    session = cookie_of(sign_in(front, key.key))
    assert call(front.url, "GET", SEARCH, session).status == 200
    seen = upstream.requests[-1]
    assert seen.one("X-Hokusai-User-Id") == "ann"
    assert seen.one("X-Hokusai-Key-Id") == key.key_id
    assert seen.all("Cookie") == seen.all("Authorization") == []
    assert session.partition("=")[2].encode() not in seen.head


def test_a_form_that_was_cut_off_is_no_failed_attempt(start_front: Callable[..., Proxy]) -> None:
    """Half a key is no wrong key: five people on a bad line must not lock their office out."""
    front = start_front(AUTH_FAILURE_LIMIT=1)
    for _ in range(3):
        with Wire(front.url) as wire:
            wire.send(
                request("POST", SIGN_IN, FORM, OWN, "Content-Length: 60", body=b"key=hk_test")
            )
            wire.socket.shutdown(socket.SHUT_WR)
            assert wire.read().error == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "fields", [["Content-Type: multipart/form-data; boundary=a"], [FORM, "Content-Length: 40000"]]
)
def test_what_the_form_does_not_send_is_refused(front: Proxy, fields: list[str]) -> None:
    answer = call(front.url, "POST", SIGN_IN, OWN, *fields, body=b"key=a")
    assert answer.error == (400, "BAD_REQUEST")


def test_redis_holds_neither_key_nor_cookie(front: Proxy, key: str, redis_url: str) -> None:
    token = cookie_of(sign_in(front, key)).partition("=")[2]
    with redis.Redis.from_url(redis_url) as client:
        names = client.keys("hokusai:session:*")
        everything = b"".join([*names, *(client.get(name) or b"" for name in names)])
    assert names
    assert token.encode() not in everything
    assert key.encode() not in everything


def test_the_log_holds_neither(front: Proxy, upstream: Upstream, key: str) -> None:
    session = cookie_of(sign_in(front, key))
    call(front.url, "GET", SEARCH, session)
    log = front.log.read_text(errors="replace")
    assert "a session began" in log
    assert session.partition("=")[2] not in log
    assert key not in log


def test_a_key_beside_the_cookie_wins(front: Proxy, upstream: Upstream, auth_service: Any) -> None:
    session = cookie_of(sign_in(front, auth_service.create_key(user="ann").key))
    bob = auth_service.create_key(user="bob").key
    assert call(front.url, "GET", SEARCH, session, bearer(bob)).status == 200
    assert upstream.requests[-1].one("X-Hokusai-User-Id") == "bob"
    bad = call(front.url, "GET", SEARCH, session, bearer("hk_test_bad"))
    assert bad.error == (401, "UNAUTHENTICATED")


FOREIGN = f"Authorization: Basic {base64.b64encode(b'ann:her password, elsewhere').decode()}"


@pytest.mark.parametrize("foreign", [FOREIGN, 'Authorization: Digest username="ann", nonce="1"'])
def test_a_session_comes_before_credentials_for_something_else(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str, foreign: str
) -> None:
    """A browser sends those of another application, at the root of this host, or of a login in
    front, with every request. None of them is a failed attempt."""
    alone = start_front(AUTH_FAILURE_LIMIT=1)
    form = call(alone.url, "GET", HOME, *NAVIGATION, foreign)
    assert form.status == 401
    assert form.all("WWW-Authenticate") == ['Bearer realm="mlflow"'], "no window of the browser's"
    assert (form.one("Content-Type") or "").startswith("text/html")
    session = cookie_of(sign_in(alone, key, OWN, foreign))
    for target in (SEARCH, HOME, "/mlflow/health/mlflow/detailed", "/status"):
        assert call(alone.url, "GET", target, session, foreign).status == 200
    assert call(alone.url, "POST", SEARCH, session, foreign, OWN, body=b"{}").status == 200
    assert call(alone.url, "POST", SEARCH, session, foreign, body=b"{}").status == 403
    assert call(alone.url, "POST", SIGN_OUT, session, foreign, OWN).status == 303
    over = call(alone.url, "GET", SEARCH, *BROWSER, session, foreign)
    assert over.error == (401, "UNAUTHENTICATED")
    assert over.all("WWW-Authenticate") == ['Bearer realm="mlflow"']


@pytest.mark.parametrize("value", ["", "a", "a" * 43, "a" * 44, "a" * 5000, "*", '"quoted"', "a=b"])
def test_a_made_up_cookie_is_nobodys(front: Proxy, upstream: Upstream, value: str) -> None:
    answer = call(front.url, "GET", SEARCH, f"Cookie: x=1; hokusai-session={value}; y=2")
    assert answer.error == (401, "UNAUTHENTICATED")


def test_of_two_cookies_the_first_that_can_be_one_counts(
    front: Proxy, upstream: Upstream, session: str
) -> None:
    """A sibling host can set one for the whole domain; ours, with its path, comes first."""
    own = session.removeprefix("Cookie: ")
    for pair in (f"{own}; hokusai-session={'a' * 43}", f"hokusai-session=x; {own}"):
        assert call(front.url, "GET", SEARCH, f"Cookie: {pair}").status == 200
    assert call(front.url, "GET", SEARCH, "Cookie: x=1", session).status == 200  # two lines


def test_what_a_key_or_a_session_reads_is_not_kept_for_others(
    front: Proxy, upstream: Upstream, session: str, key: str
) -> None:
    """Shared caches keep out by themselves where there is an Authorization."""
    private, own = "private, no-cache", f"X-API-Key: {key}"
    for fields, said in (
        ((session,), private),
        ((session, "Authorization: Negotiate YII="), private),
        ((own,), private),
        ((own, bearer(key)), None),
        ((bearer(key),), None),
    ):
        assert call(front.url, "GET", SEARCH, *fields).one("Cache-Control") == said
    public = ("Cache-Control", "public, max-age=60")
    upstream.answers(Answer(send(sized(b"{}", 200, public))))
    for field in (session, own):
        assert call(front.url, "GET", SEARCH, field).one("Cache-Control") == public[1]


@pytest.mark.parametrize(("result", "of"), [("accepted", "a session"), ("refused", "nobody")])
def test_a_session_is_counted_as_such(
    front: Proxy, upstream: Upstream, session: str, result: str, of: str
) -> None:
    name = f'hokusai_proxy_authentications_total{{result="{result}",source="session"}} '

    def counted() -> float:
        lines = call(front.url, "GET", "/metrics").body.decode().splitlines()
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = counted()
    cookie = session if of == "a session" else f"Cookie: hokusai-session={'a' * 43}"
    call(front.url, "GET", SEARCH, cookie)
    assert counted() == before + 1


# --- scopes and other sites ----------------------------------------------------------------------


def test_a_read_keys_session_sees_and_changes_nothing(
    front: Proxy, upstream: Upstream, auth_service: Any
) -> None:
    session = cookie_of(sign_in(front, auth_service.create_key(scopes=["read"]).key))
    assert call(front.url, "GET", SEARCH, session).status == 200
    answer = call(front.url, "POST", CREATE, session, OWN, body=b"{}")
    assert answer.error == (403, "PERMISSION_DENIED")
    assert "needs the scope 'write'" in answer.json["message"]


AJAX = "/mlflow/ajax-api"

#: What MLflow's pages send: (method, path, who may, as the scopes of a key).
SENT_BY_THE_UI = {
    "a search": ("POST", f"{AJAX}/2.0/mlflow/runs/search", "read write admin"),
    "GraphQL": ("POST", "/mlflow/graphql", "read write admin"),
    "a run's file": ("GET", "/mlflow/get-artifact?path=a", "read write admin"),
    "a model's file": ("GET", "/mlflow/model-versions/get-artifact?name=a", "read write admin"),
    "a trace's spans": ("GET", f"{AJAX}/3.0/mlflow/get-trace-artifact", "read write admin"),
    "a rename": ("POST", f"{AJAX}/2.0/mlflow/runs/update", "write admin"),
    "a small upload": ("POST", f"{AJAX}/2.0/mlflow/upload-artifact?path=a", "write admin"),
    "an upload": ("PUT", f"{AJAX}/2.0/mlflow-artifacts/artifacts/a", "write admin"),
    "a deletion": ("DELETE", f"{AJAX}/2.0/mlflow/model-versions/delete", "write admin"),
    "a tag": ("PATCH", f"{AJAX}/3.0/mlflow/traces/tr-1/tags", "write admin"),
    "a webhook": ("POST", f"{AJAX}/2.0/mlflow/webhooks", "admin"),
    "a secret": ("POST", f"{AJAX}/3.0/mlflow/gateway/secrets/create", "admin"),
    "a model's call": ("POST", f"{AJAX}/2.0/mlflow/gateway-proxy", "admin"),
    "the assistant": ("POST", f"{AJAX}/3.0/mlflow/assistant/message", ""),
}


@pytest.mark.parametrize("scope", ["read", "write", "admin"])
@pytest.mark.parametrize("what", SENT_BY_THE_UI)
def test_what_the_ui_sends_obeys_the_scopes(
    front: Proxy, upstream: Upstream, auth_service: Any, scope: str, what: str
) -> None:
    method, path, who = SENT_BY_THE_UI[what]
    session = cookie_of(sign_in(front, auth_service.create_key(scopes=[scope]).key))
    answer = call(front.url, method, path, session, OWN, body=b"" if method == "GET" else b"{}")
    assert answer.status == (200 if scope in who.split() else 403)
    assert len(upstream.requests) == (scope in who.split())


SITES = {
    "its own page": ([OWN], 200),
    "a bookmark": (["Sec-Fetch-Site: none"], 200),
    "its own page in an older browser": (["Origin: http://proxy.test"], 200),
    "another site": (["Sec-Fetch-Site: cross-site"], 403),
    "a subdomain": (["Sec-Fetch-Site: same-site", "Origin: http://proxy.test"], 403),
    "another site in an older browser": (["Origin: http://elsewhere.test"], 403),
    "a page of no site": (["Origin: null"], 403),
    "nobody knows": ([], 403),
}


@pytest.mark.parametrize("site", SITES)
def test_a_session_writes_from_its_own_pages_only(
    front: Proxy, upstream: Upstream, session: str, site: str
) -> None:
    fields, status = SITES[site]
    assert call(front.url, "POST", CREATE, session, *fields, body=b"{}").status == status
    assert len(upstream.requests) == (status == 200)


@pytest.mark.parametrize("site", [site for site in SITES if SITES[site][1] == 403])
@pytest.mark.parametrize("path", [SIGN_IN, SIGN_OUT])
def test_nobody_is_signed_in_or_out_by_another_site(
    front: Proxy, upstream: Upstream, session: str, key: str, site: str, path: str
) -> None:
    fields = [FORM, session, *SITES[site][0]]
    answer = call(front.url, "POST", path, *fields, body=f"key={key}".encode())
    assert answer.error == (403, "PERMISSION_DENIED")
    page = call(front.url, "POST", path, *NAVIGATION, *fields, body=f"key={key}".encode())
    assert page.status == 403
    assert b"<h1>This is not allowed</h1>" in page.body
    assert answer.all("Set-Cookie") == []
    assert call(front.url, "GET", SEARCH, session).status == 200


# --- the end -------------------------------------------------------------------------------------


def test_signing_out_ends_it_on_every_instance(
    front: Proxy, start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    other = start_front()
    session = cookie_of(sign_in(front, key))
    assert call(other.url, "GET", SEARCH, session).status == 200
    answer = call(other.url, "POST", SIGN_OUT, session, OWN)
    assert (answer.status, answer.one("Location")) == (303, f"{SIGN_IN}?signed-out")
    assert all("Max-Age=0" in cookie for cookie in answer.all("Set-Cookie"))
    for instance in (front, other):
        assert call(instance.url, "GET", SEARCH, session).error == (401, "UNAUTHENTICATED")


def test_sign_out_takes_a_post(front: Proxy, upstream: Upstream, session: str) -> None:
    answer = call(front.url, "GET", SIGN_OUT, session)
    assert (answer.status, answer.one("Location")) == (303, SIGN_IN)
    assert call(front.url, "GET", SEARCH, session).status == 200


@pytest.mark.slow
def test_a_session_ends_after_its_idle_time(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    quick = start_front(SESSION_IDLE=4)
    session = cookie_of(sign_in(quick, key))
    assert call(quick.url, "GET", SEARCH, session).status == 200
    upstream.stopping.wait(4.5)
    assert call(quick.url, "GET", SEARCH, session).status == 401


@pytest.mark.slow
def test_a_status_page_that_stays_open_keeps_no_session_alive(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    quick = start_front(SESSION_IDLE=2)
    session = cookie_of(sign_in(quick, key))
    drawn = []
    for _ in range(30):
        drawn.append(b"<svg" in call(quick.url, "GET", "/status", session).body)
        upstream.stopping.wait(0.1)
    assert drawn[0]
    assert not drawn[-1]


@pytest.mark.slow
def test_a_session_ends_when_the_key_expires(
    start_front: Callable[..., Proxy], upstream: Upstream
) -> None:
    with Upstream() as service:
        quick = start_front(HOKUSAI_AUTH_SERVICE_URL=service.url)
        ends = datetime.now(UTC) + timedelta(seconds=6)
        decision = DECISION | {"expires_at": ends.isoformat()}
        service.answers(Answer(send(sized(json.dumps(decision).encode()))))
        session = cookie_of(sign_in(quick, f"hk_test_brief_{quick.port}"))
        assert call(quick.url, "GET", SEARCH, session).status == 200
        upstream.stopping.wait(6.2)
        assert call(quick.url, "GET", SEARCH, session).status == 401


@pytest.mark.slow
def test_a_session_in_use_ends_after_its_lifetime(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    quick = start_front(SESSION_LIFETIME=2)
    session = cookie_of(sign_in(quick, key))
    statuses = []
    for _ in range(40):
        statuses.append(call(quick.url, "GET", SEARCH, session).status)
        upstream.stopping.wait(0.1)
    assert statuses[0] == 200
    assert statuses[-1] == 401


def test_a_session_is_bound_to_the_address(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    behind = start_front(TRUSTED_PROXY_HOPS=1)
    session = cookie_of(sign_in(behind, key, OWN, "X-Forwarded-For: 198.51.100.1"))
    assert call(behind.url, "GET", SEARCH, session, "X-Forwarded-For: 198.51.100.1").status == 200
    answer = call(behind.url, "GET", SEARCH, session, "X-Forwarded-For: 198.51.100.2")
    assert answer.error == (401, "UNAUTHENTICATED")


@pytest.mark.slow
def test_while_redis_is_away_one_signs_in_anew_and_nothing_stale_is_believed(
    start_front: Callable[..., Proxy],
    start_redis: Callable[[], Any],
    upstream: Upstream,
    key: str,
) -> None:
    own = start_redis()
    alone = start_front(REDIS_URL=own.url, REDIS_RETRY_INTERVAL="0.2")
    before = cookie_of(sign_in(alone, key))
    own.stop()
    answer = call(alone.url, "GET", SEARCH, before)
    assert answer.error == (503, "TEMPORARILY_UNAVAILABLE")
    during = cookie_of(sign_in(alone, key))
    assert call(alone.url, "GET", SEARCH, during).status == 200
    page = call(alone.url, "GET", HOME, *NAVIGATION, before)
    assert page.status == 503
    for path in (HOME, SIGN_IN, "/status"):
        page = call(alone.url, "GET", path, *NAVIGATION, before)
        assert b"Sessions cannot be looked up" in page.body
    out = call(alone.url, "POST", SIGN_OUT, *NAVIGATION, before, OWN)
    assert out.status == 503
    assert b"This browser is signed out" in out.body
    assert all("Max-Age=0" in cookie for cookie in out.all("Set-Cookie"))
    answer = call(alone.url, "POST", SIGN_OUT, during, OWN)
    assert answer.status == 303
    assert call(alone.url, "GET", SEARCH, during).status != 200


@pytest.mark.slow
def test_without_redis_sessions_stay_in_the_process(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    alone = start_front(REDIS_URL="memory://", WEB_CONCURRENCY=1)
    session = cookie_of(sign_in(alone, key))
    assert call(alone.url, "GET", SEARCH, session).status == 200
    assert call(alone.url, "POST", SIGN_OUT, session, OWN).status == 303
    assert call(alone.url, "GET", SEARCH, session).error == (401, "UNAUTHENTICATED")


@pytest.mark.slow
def test_a_revocation_ends_a_session_also_where_nobody_heard_of_it(
    start_front: Callable[..., Proxy],
    start_redis: Callable[[], Any],
    upstream: Upstream,
    auth_service: Any,
) -> None:
    """The mark outlives the decisions: a worker that starts long after finds it."""
    own = start_redis()
    settings = {"REDIS_URL": own.url, "AUTH_CACHE_TTL": 1, "AUTH_STALE_TTL": 0}
    heard = start_front(**settings)
    issued = auth_service.create_key(scopes=["read"])
    session = cookie_of(sign_in(heard, issued.key))
    upstream.stopping.wait(1.5)  # what is revoked within a second of its validation is dead anyway
    assert call(heard.url, "GET", SEARCH, session).status == 200
    revocation.announce(own.url, issued.key_id)
    with redis.Redis.from_url(own.url) as client:
        mark = f"hokusai:auth:revoked:{issued.key_id}"
        deadline = time.monotonic() + 10
        while not client.exists(mark):
            assert time.monotonic() < deadline, "nobody heard of it"
            time.sleep(0.01)
        assert client.ttl(mark) > 11 * 3600
    assert call(heard.url, "GET", SEARCH, session).error == (401, "UNAUTHENTICATED")
    late = start_front(**settings)
    assert call(late.url, "GET", SEARCH, session).error == (401, "UNAUTHENTICATED")
