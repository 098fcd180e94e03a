"""Writes that another site's page makes a browser send."""

import pytest

from app.cross_site import refuse_cross_site
from app.errors import Forbidden

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
    refuse_cross_site({"REQUEST_METHOD": "POST", "HTTP_HOST": HOST} | fields)


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
        refuse_cross_site({"REQUEST_METHOD": method, "HTTP_HOST": HOST} | fields)


def test_reads_are_nobodys_business() -> None:
    environ = {"HTTP_HOST": HOST, "HTTP_SEC_FETCH_SITE": "cross-site", "REQUEST_METHOD": "GET"}
    refuse_cross_site(environ)
