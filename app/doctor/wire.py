"""Plain HTTP calls to a deployment: no proxies, no .netrc, no cookies, no redirects followed."""

import base64
import time
import uuid
from http.client import IncompleteRead
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies

from app.doctor.command_line import Options
from app.doctor.explain import Response, network, response
from app.doctor.steps import Failed, Skipped

KEY_FORMS = ("Bearer", "ApiKey", "Basic", "X-API-Key")


def credential(key: str, form: str = "Bearer") -> dict[str, str]:
    """The header that carries the key in one of the four `KEY_FORMS`."""
    if form == "X-API-Key":
        return {"X-API-Key": key}
    if form == "Basic":
        key = base64.b64encode(f"api-key:{key}".encode()).decode()
    return {"Authorization": f"{form} {key}"}


class Wire:
    """One kept-alive session with a deployment."""

    def __init__(self, options: Options) -> None:
        self.options, self.target = options, options.target
        self.key = credential(options.key)
        self._session = requests.Session()
        self._session.trust_env = False  # else .netrc would replace our Authorization
        self._session.verify = options.ca_file or True
        if options.env_proxies:
            self._session.proxies = get_environ_proxies(self.target.root)

    def address(self) -> tuple[str, int]:
        """The deployment's host and port; raises Skipped if the environment's proxy is between."""
        parts = urlsplit(self.target.root)
        if {parts.scheme, "all"} & set(self._session.proxies):
            raise Skipped("goes through the environment's proxy")
        return parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]

    def mlflow(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None, **body: Any
    ) -> Response:
        """Send a request to a path of MLflow, such as "/version", with the key and below the
        prefix."""
        return self.send(self.target.prefix + path, method, self.key | (headers or {}), **body)

    def send(
        self,
        path: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        root: str = "",
        **body: Any,
    ) -> Response:
        """Send a request to a path below the deployment's root, such as "/health", or below another
        root; raises Failed if no whole response comes within the timeout. It has an X-Request-ID of
        its own. `body` is `json=` or `data=`, as requests takes them."""
        request_id, began = uuid.uuid4().hex, time.perf_counter()
        shown = path if len(path) < 200 else f"{path[:60]}… ({len(path)} characters)"
        self._session.cookies.clear()
        try:
            got = self._session.request(
                method,
                (root or self.target.root) + path,
                headers={"X-Request-ID": request_id, **(headers or {})},
                timeout=self.options.timeout,
                allow_redirects=False,
                **body,
            )
        except requests.exceptions.ChunkedEncodingError as error:
            raise network(IncompleteRead(b""), f"{method} {shown}", request_id) from error
        except (requests.RequestException, OSError) as error:
            raise network(error, f"{method} {shown}", request_id) from error
        took = (time.perf_counter() - began) * 1000
        return Response(method, shown, got.status_code, got.headers, got.content, took, request_id)


def expect(got: Response, status: int = 200) -> dict[str, Any]:
    """The JSON object of a response with that status; raises Failed for anything else."""
    document = got.document()
    if got.status != status or document is None:
        raise response(got, f"{status} with JSON")
    return document


def expect_unauthenticated(got: Response, offered: str) -> str:
    """Raises Failed unless a request was refused as the SDK needs it: 401, JSON, a code, a
    challenge. `offered` is how the request identified itself, as "no key"."""
    if got.status == 200 and not got.is_page:
        raise Failed.of("door-open", f"{got.seen}, with {offered}.", got.request_id)
    document = got.document()
    if document is None or got.status != 401:
        raise response(got, f"401 in JSON for {offered}")
    missing = [] if document.get("error_code") == "UNAUTHENTICATED" else ["error_code"]
    missing += [] if got.headers.get("WWW-Authenticate") else ["WWW-Authenticate"]
    if missing:
        lacks = f"The 401 lacks {' and '.join(missing)}."
        raise Failed.of("answers-changed", lacks, got.request_id)
    return "401 in JSON"
