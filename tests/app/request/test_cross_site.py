"""Writes that another site's page makes a browser send."""

import pytest

from app.request.cross_site import refuse_cross_site, require_own_page
from app.request.errors import Forbidden

HOST = "registry.hokus.ai"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"HTTP_SEC_FETCH_SITE": "same-origin"},
        {"HTTP_SEC_FETCH_SITE": "none"},
        {"HTTP_ORIGIN": "https://registry.hokus.ai"},
        {"HTTP_ORIGIN": "https://REGISTRY.hokus.ai"},
        {"HTTP_SEC_FETCH_SITE": "same-origin", "HTTP_ORIGIN": "https://behind.a.rewriting.proxy"},
    ],
    ids=["a program", "our page", "typed by hand", "our origin", "in capitals", "Host rewritten"],
)
def test_writes_of_programs_and_of_our_own_pages_go_on(fields: dict[str, str]) -> None:
    refuse_cross_site({"REQUEST_METHOD": "POST", "HTTP_HOST": HOST} | fields, 0)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "fields",
    [
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_SEC_FETCH_SITE": "same-site"},
        {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_ORIGIN": "https://registry.hokus.ai"},
        {"HTTP_ORIGIN": "https://evil.example"},
        {"HTTP_ORIGIN": "https://registry.hokus.ai.evil.example"},
        {"HTTP_ORIGIN": "https://registry.hokus.ai:8443"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_ORIGIN": "https://[broken"},
    ],
)
def test_writes_from_elsewhere_are_refused(method: str, fields: dict[str, str]) -> None:
    with pytest.raises(Forbidden, match="another site"):
        refuse_cross_site({"REQUEST_METHOD": method, "HTTP_HOST": HOST} | fields, 0)


def test_reads_are_nobodys_business() -> None:
    environ = {"HTTP_HOST": HOST, "HTTP_SEC_FETCH_SITE": "cross-site", "REQUEST_METHOD": "GET"}
    refuse_cross_site(environ, 0)


BEHIND = "127.0.0.1:8000"


@pytest.mark.parametrize(
    ("hops", "fields"),
    [
        (0, {"HTTP_ORIGIN": "http://name", "HTTP_HOST": "name:80"}),
        (0, {"HTTP_ORIGIN": "https://name", "HTTP_HOST": "NAME:443"}),
        (0, {"HTTP_ORIGIN": "http://[2001:DB8::1]:8080", "HTTP_HOST": "[2001:db8::1]:8080"}),
        (0, {"HTTP_REFERER": "http://name:8080/mlflow/-/sign-in", "HTTP_HOST": "name:8080"}),
        (1, {"HTTP_ORIGIN": "http://name:8080", "HTTP_X_FORWARDED_HOST": "name:8080"}),
        (1, {"HTTP_ORIGIN": "http://name", "HTTP_X_FORWARDED_HOST": "made-up, Name"}),
        (2, {"HTTP_ORIGIN": "http://name", "HTTP_X_FORWARDED_HOST": "made-up, name, inner"}),
        (2, {"HTTP_ORIGIN": "http://name", "HTTP_X_FORWARDED_HOST": "name"}),
        (
            1,
            {
                "HTTP_ORIGIN": "http://name:8080",
                "HTTP_HOST": "name",
                "HTTP_X_FORWARDED_PORT": "8080",
            },
        ),
        (
            1,
            {
                "HTTP_ORIGIN": "http://[::1]:8080",
                "HTTP_X_FORWARDED_HOST": "[::1]",
                "HTTP_X_FORWARDED_PORT": "8080",
            },
        ),
    ],
)
def test_a_page_of_the_host_that_the_browser_asked_for(hops: int, fields: dict[str, str]) -> None:
    require_own_page({"REQUEST_METHOD": "POST", "HTTP_HOST": BEHIND} | fields, hops)


@pytest.mark.parametrize(
    ("hops", "fields"),
    [
        (0, {"HTTP_ORIGIN": "http://name", "HTTP_X_FORWARDED_HOST": "name"}),
        (
            0,
            {
                "HTTP_ORIGIN": "http://name:8080",
                "HTTP_X_FORWARDED_PORT": "8080",
                "HTTP_HOST": "name",
            },
        ),
        (1, {"HTTP_ORIGIN": "http://evil", "HTTP_X_FORWARDED_HOST": "evil, name"}),
        (1, {"HTTP_ORIGIN": "null", "HTTP_X_FORWARDED_HOST": "null"}),
        (1, {"HTTP_ORIGIN": "http://name", "HTTP_X_FORWARDED_HOST": "name:notaport"}),
        (0, {"HTTP_ORIGIN": "https://name", "HTTP_HOST": "name:80"}),
        (0, {"HTTP_REFERER": "http://evil/127.0.0.1:8000"}),
        (0, {"HTTP_ORIGIN": "http://evil", "HTTP_REFERER": "http://127.0.0.1:8000/"}),
        (0, {}),
    ],
)
def test_what_does_not_say_so_is_refused(hops: int, fields: dict[str, str]) -> None:
    with pytest.raises(Forbidden):
        require_own_page({"REQUEST_METHOD": "POST", "HTTP_HOST": BEHIND} | fields, hops)


def test_a_refusal_names_the_settings_of_the_proxy_in_front_and_no_internal_host() -> None:
    environ = {"REQUEST_METHOD": "POST", "HTTP_HOST": BEHIND, "HTTP_ORIGIN": "http://name:8080"}
    with pytest.raises(Forbidden) as caught:
        require_own_page(environ, 1)
    assert "proxy_set_header Host $http_host" in caught.value.message
    assert "ProxyPreserveHost On" in caught.value.message
    assert BEHIND not in caught.value.message
