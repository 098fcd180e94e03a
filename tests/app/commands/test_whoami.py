"""`flask whoami`: what a key is, for people and for programs; never the key."""

import json
from collections.abc import Callable
from typing import Any

from devstack.proxy import Proxy
from tests.app.doctor.conftest import Finished
from tests.upstreams import Answer, Upstream, send, sized

Flask = Callable[..., Finished]


def test_a_key_is_described(flask: Flask, proxy: Proxy, auth_service: Any) -> None:
    made = auth_service.create_key(scopes=["mlflow:read"], limit=7)
    done = flask("whoami", "--url", proxy.api, HOKUSAI_API_KEY=made.key)
    assert (done.status, done.err) == (0, "")
    assert f"key id      {made.key_id}\n" in done.out
    assert "may         read\n" in done.out
    assert "limit       7 of 7 an hour left; more at 2" in done.out
    assert "expires at  none\n" in done.out
    assert made.key not in done.out


def test_a_program_gets_the_document(flask: Flask, proxy: Proxy, auth_service: Any) -> None:
    key = auth_service.create_key().key
    done = flask("whoami", "--url", proxy.url, "--json", HOKUSAI_API_KEY=key)
    assert json.loads(done.out)["may"] == ["read", "write", "delete"]


def test_a_bad_key_is_an_error(flask: Flask, proxy: Proxy) -> None:
    done = flask("whoami", "--url", proxy.url, HOKUSAI_API_KEY="hk_test_unknown")
    assert (done.status, done.out) == (1, "")
    assert "401" in done.err
    assert "hk_test" not in done.err


def test_a_server_that_repeats_the_key_does_not_make_it_seen(flask: Flask) -> None:
    key = "hk_test_repeated"
    with Upstream() as other:
        other.answers(Answer(send(sized(f'{{"message": "{key}?"}}'.encode(), 400))))
        done = flask("whoami", "--url", other.url, HOKUSAI_API_KEY=key)
    assert (done.status, done.out) == (1, "")
    assert "400" in done.err
    assert key not in done.err
