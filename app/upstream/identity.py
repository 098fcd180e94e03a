"""What the proxy shows MLflow: its own credentials, and its signature of who calls.

infrastructure/mlflow/hokusai_identity.py runs inside MLflow and checks the signature.
"""

import base64
import hmac
import time
from collections.abc import Callable, Mapping
from urllib.parse import unquote

from app.request.errors import Forbidden
from app.upstream.request_head import TARGET
from config import Settings

USER, SIGNATURE = "X-Hokusai-User-Id", "X-Hokusai-Signature"

#: The user of requests that the proxy makes itself, such as health checks.
OWN_USER = "hokusai-proxy"

#: The first line of what is signed, and how often a path is decoded; as in the module.
VERSION, DECODINGS = "hokusai-1", 16


def own_credentials(settings: Settings) -> Mapping[str, str]:
    """Return the proxy's credentials for MLflow: a token, a user name and password, or nothing."""
    if settings.mlflow_upstream_token:
        return {"Authorization": f"Bearer {settings.mlflow_upstream_token}"}
    if settings.mlflow_upstream_username:
        pair = f"{settings.mlflow_upstream_username}:{settings.mlflow_upstream_password}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


class Signer:
    """Signs with MLFLOW_IDENTITY_SECRET; without one it does nothing. `own` names the user of the
    proxy's own requests."""

    def __init__(self, secret: str, now: Callable[[], float] = time.time) -> None:
        self.own = {USER: OWN_USER} if secret else {}
        self._secret = secret.encode()
        self._now = now

    def __bool__(self) -> bool:
        return bool(self._secret)

    def sign(self, method: str, headers: dict[str, str]) -> None:
        """Add the signature to the headers of a request to TARGET, if they name a user. Raises
        Forbidden for a caller with the name of the proxy's own user."""
        if not self._secret or USER not in headers:
            return
        user = headers[USER]
        if user == OWN_USER and "X-Hokusai-Key-Id" in headers:
            raise Forbidden(f"The user id {user!r} is the proxy's own in MLflow; use another.")
        path, _, query = headers[TARGET].partition("?")
        moment = str(int(self._now()))
        message = "\n".join((VERSION, moment, method, _decoded(path), query, user)).encode()
        digest = hmac.digest(self._secret, message, "sha256").hex()
        headers[SIGNATURE] = f"{moment}.{digest}"


def _decoded(path: str) -> str:
    """Decode until nothing changes: MLflow shows some paths to its module decoded twice, and
    without tabs and line breaks."""
    for _ in range(DECODINGS):
        if (decoded := unquote(path)) == path:
            break
        path = decoded
    return path.translate({9: None, 10: None, 13: None})
