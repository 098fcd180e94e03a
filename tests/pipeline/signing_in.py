"""Signing in at the wire, and what a browser sends."""

from urllib.parse import quote

from devstack.proxy import Proxy
from tests.wire import Response, call

HOME = "/mlflow/"
SIGN_IN = "/mlflow/-/sign-in"
SIGN_OUT = "/mlflow/-/sign-out"
SEARCH = "/mlflow/ajax-api/2.0/mlflow/experiments/search"
CREATE = "/mlflow/ajax-api/2.0/mlflow/runs/create"

HTML = "Accept: text/html,application/xhtml+xml;q=0.9"
AGENT = "User-Agent: Mozilla/5.0 (X11)"
NAVIGATION = (HTML, AGENT, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
BROWSER = (AGENT, "Accept: */*", "Sec-Fetch-Mode: cors")
OWN = "Sec-Fetch-Site: same-origin"
FORM = "Content-Type: application/x-www-form-urlencoded"

#: What the auth service says of a key that may read.
DECISION = {"user_id": "ann", "key_id": "key-of-ann", "service_id": "platform", "scopes": ["read"]}


def sign_in(front: Proxy, key: str, *fields: str, goal: str = "") -> Response:
    body = f"key={quote(key)}&next={quote(goal)}".encode()
    return call(front.url, "POST", SIGN_IN, FORM, *(fields or (OWN,)), body=body)


def cookie_of(answer: Response) -> str:
    """The header line that a browser sends from then on."""
    (pair,) = {cookie.partition(";")[0] for cookie in answer.all("Set-Cookie")}
    return f"Cookie: {pair}"
