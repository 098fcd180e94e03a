"""Plain HTTP calls to a deployment: no proxies, no .netrc, no cookies, no redirects followed."""

import base64
import time
import uuid
from http.client import IncompleteRead
from typing import Any

import requests
from requests.utils import get_environ_proxies

from app.doctor.command_line import Options
from app.doctor.explain import Answer, answer, network
from app.doctor.steps import Failed

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
        self._session = requests.Session()
        self._session.trust_env = False  # else .netrc would replace our Authorization
        self._session.verify = options.ca_file or True
        if options.env_proxies:
            self._session.proxies = get_environ_proxies(self.target.root)

    @property
    def is_direct(self) -> bool:
        """False if the environment's proxy stands between us and the deployment."""
        return not {self.target.root.split(":")[0], "all"} & set(self._session.proxies)

    def get(self, path: str, headers: dict[str, str] | None = None, root: str = "") -> Answer:
        """GET a path below the deployment's root, such as "/health"; or below another root."""
        return self.send("GET", path, headers, root)

    def send(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        root: str = "",
        **body: Any,
    ) -> Answer:
        """Send one request with an X-Request-ID of our own.

        Args:
            root: where the path begins; by default the deployment's root.
            body: `json=` or `data=`, as requests takes them.

        Raises:
            Failed: no answer, or not a whole one, within the time-out.
        """
        request_id = uuid.uuid4().hex
        headers = {"X-Request-ID": request_id, **(headers or {})}
        self._session.cookies.clear()
        started = time.perf_counter()
        try:
            got = self._session.request(
                method,
                (root or self.target.root) + path,
                headers=headers,
                timeout=self.options.timeout,
                allow_redirects=False,
                **body,
            )
        except requests.exceptions.ChunkedEncodingError as error:
            raise network(IncompleteRead(b""), f"{method} {_short(path)}", request_id) from error
        except (requests.RequestException, OSError) as error:
            way = "" if self.is_direct else ", through the environment's proxy"
            raise network(error, f"{method} {_short(path)}{way}", request_id) from error
        took = (time.perf_counter() - started) * 1000
        return Answer(
            method,
            _short(path),
            got.status_code,
            got.headers,
            got.content,
            took,
            headers["X-Request-ID"],
        )


def post(url: str, content: dict[str, str], timeout: float) -> Answer:
    """One POST of JSON to any address, without a key; raises Failed as `Wire.send` does."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            got = session.post(url, json=content, timeout=timeout, allow_redirects=False)
        except (requests.RequestException, OSError) as error:
            raise network(error, f"POST {url}") from error
    return Answer("POST", url, got.status_code, got.headers, got.content)


def _short(path: str) -> str:
    """A path as a report shows it."""
    return path if len(path) < 200 else f"{path[:60]}… ({len(path)} characters)"


def expect(got: Answer, status: int = 200) -> dict[str, Any]:
    """The JSON object of an answer with that status.

    Raises:
        Failed: another status, or anything but a JSON object.
    """
    document = got.document()
    if got.status != status or document is None:
        raise answer(got, f"{status} with JSON")
    return document


def expect_unauthenticated(got: Answer, offered: str) -> str:
    """Check that a request was refused as the SDK needs it: 401, JSON, a code, a challenge.

    Args:
        offered: how the request identified itself, as "no key".

    Raises:
        Failed: it was let in, sent to a login page, or refused in other words.
    """
    if got.status == 200 and not got.is_page:
        raise Failed(
            f"{got.method} {got.path} was answered with {offered}: anybody can get in.",
            "Requests reach MLflow around the proxy, or --uri names MLflow itself: forward the "
            "path to the proxy's port (8000), never to MLflow's (5000).",
            got.request_id,
            "door-open",
        )
    document = got.document()
    if got.status == 401 and document is None:
        raise Failed(
            f"{got.method} {got.path} answered 401, but not in JSON, which the SDK cannot read.",
            "Something in front of the proxy asks for a login of its own: let these paths pass.",
            got.request_id,
            "not-the-proxy",
        )
    if document is None or got.status != 401:
        raise answer(got, f"401 for {offered}")
    missing = [] if document.get("error_code") == "UNAUTHENTICATED" else ["error_code"]
    missing += [] if got.headers.get("WWW-Authenticate") else ["WWW-Authenticate"]
    if missing:
        said = f"The 401 lacks {' and '.join(missing)}."
        raise Failed(said, "", got.request_id, "answers-changed")
    return "401 in JSON"
