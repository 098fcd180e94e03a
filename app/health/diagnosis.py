"""What a failure or an answer means: from exceptions, statuses and texts to a finding.

Decides; asks nobody. A finding's message is for everybody and stands in messages.py; its detail,
with host names and the words of libraries, is for whoever holds a key.
"""

import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from app.health import messages
from app.state.redis_faults import said
from app.state.redis_link import Trouble
from app.state.redis_rights import explain
from app.state.redis_sentinel import MasterAlone
from app.upstream.answers import NO_PERMISSION
from app.upstream.names import LookupFailed

HEALTHY, DEGRADED, UNHEALTHY = "healthy", "degraded", "unhealthy"

#: What stands in the answer of the list that a check asks for; an empty list is left out.
LISTS = {
    "experiments_api": "experiments",
    "models_api": "registered_models",
    "artifacts_api": "files",
}


class Finding(NamedTuple):
    """What a check found: one of the three words, a message, a detail for operators."""

    status: str
    message: str
    detail: str = ""


class Part(NamedTuple):
    """Something that the proxy depends on: its name, the variable that holds its address, and the
    host and port in there."""

    name: str
    setting: str
    host: str

    def says(self, word: str) -> str:
        """The message of messages.UNANSWERED for this part."""
        return messages.UNANSWERED[word].format(part=self.name, setting=self.setting)


def mlflow_at(url: str) -> Part:
    """MLflow at this address."""
    return Part("MLflow", "MLFLOW_SERVER_URL", urlsplit(url).netloc)


def auth_service_at(url: str) -> Part:
    """The auth service at this address."""
    return Part("The auth service", "HOKUSAI_AUTH_SERVICE_URL", urlsplit(url).netloc)


#: Where Redis is said to be, if not by REDIS_URL alone.
ANNOUNCED = {
    "+sentinel://": "REDIS_URL (or what the Sentinels announce)",
    "+cluster://": "REDIS_URL (or what the nodes announce)",
}


def redis_at(url: str) -> Part:
    """Redis at this address, without its credentials."""
    setting = next((said for kind, said in ANNOUNCED.items() if kind in url), "REDIS_URL")
    return Part("Redis", setting, without_credentials(url).partition("://")[2])


def without_credentials(url: str) -> str:
    """A URL without user, password and query; a URL with several hosts, too."""
    plain = url.partition("?")[0]
    scheme, separator, rest = plain.partition("://")
    return scheme + separator + rest.rpartition("@")[2]


# --- no answer -----------------------------------------------------------------------------------


def unanswered(part: Part, error: BaseException, was_sent: bool = False) -> Finding:
    """No answer came; the exceptions behind `error` tell why. `was_sent`: the question went out."""
    causes = list(_causes(error))
    return Finding(UNHEALTHY, part.says(_why(causes, was_sent)), f"{part.host}: {causes[-1]}")


def busy(found: Finding) -> Finding:
    """No answer to a check, while callers were answered."""
    return found._replace(status=DEGRADED, message=messages.BUSY)


def _why(causes: list[BaseException], was_sent: bool) -> str:
    """A word of messages.UNANSWERED."""
    kinds: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
        ("name server", (LookupFailed,)),
        ("dns", (socket.gaierror,)),
        ("refused", (ConnectionRefusedError,)),
        ("certificate", (ssl.SSLCertVerificationError,)),
        ("no tls", (ssl.SSLError,)),
        ("broken off", (ConnectionResetError, BrokenPipeError)),
    )
    for word, kind in kinds:
        if any(isinstance(cause, kind) for cause in causes):
            return word
    names = [type(cause).__name__ for cause in causes]
    if was_sent and not any("ConnectTimeout" in name for name in names):
        return "silent" if any("Timeout" in name for name in names) else "broken off"
    return "no connection" if any("Timeout" in name for name in names) else "unreachable"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all behind it, the innermost last."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            reason = getattr(found, "reason", None)  # urllib3 keeps it so
            waiting += [found.__context__, reason, found.__cause__]


# --- MLflow --------------------------------------------------------------------------------------

#: Not right, but requests are served.
MLFLOW_DEGRADED = frozenset(("no artifacts", "throttled"))


def mlflow_answer(
    check: str, part: Part, status: int, body: bytes, has_key: bool, by_mlflow: bool = False
) -> Finding:
    """What MLflow's answer to the question of a check means. `has_key`: the proxy shows MLflow
    credentials. `by_mlflow`: MLflow itself wrote the answer, for all one can tell."""
    text = body[:200].decode("utf-8", "replace").strip()
    word = _mlflow_word(check, status, text, _json(body), has_key, by_mlflow)
    if word is None:
        return Finding(HEALTHY, messages.WELL["mlflow"])
    detail = f"{part.host} answered {status}: {text}"
    if word == "host":
        detail = f"mlflow server --allowed-hosts {part.host}"
    level = DEGRADED if word in MLFLOW_DEGRADED else UNHEALTHY
    return Finding(level, messages.MLFLOW[word].format(status=status), detail)


def _mlflow_word(
    check: str, status: int, text: str, document: Any, has_key: bool, by_mlflow: bool
) -> str | None:
    """A word of messages.MLFLOW; None if all is well."""
    if status == 200:
        return _mlflow_200(check, text, document)
    is_object = isinstance(document, dict)
    cases = (
        (status == 508 or (is_object and {"error_code", "request_id"} <= {*document}), "loop"),
        # S3's refusals of MLflow: 401, 403, and 404 for its bucket.
        (check == "artifacts_api" and is_object and "error_code" in document, "fails"),
        (status == 403 and "Invalid Host" in text, "host"),
        ("--no-serve-artifacts" in text, "no artifacts"),
        ("--artifacts-only" in text, "artifacts only"),
        (status == 403 and text == NO_PERMISSION and has_key, "permission"),
        (status in (401, 403), "credentials" if has_key else "no credentials"),
        (status == 404, "not found"),
        (300 <= status < 400, "redirect"),
        (status == 429, "throttled"),
        (status in (502, 503, 504) and not is_object and not by_mlflow, "intermediary"),
    )
    return next((word for is_so, word in cases if is_so), "fails")


def _mlflow_200(check: str, text: str, document: Any) -> str | None:
    if text.startswith("<"):  # not by its type: MLflow calls its plain /health text/html too
        return "page"
    wanted = LISTS.get(check)
    is_list = isinstance(document, dict) and (not document or wanted in document)
    return None if wanted is None or is_list else "another"


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


# --- Redis, the auth service, the circuits -------------------------------------------------------


def redis_trouble(part: Part, trouble: Trouble) -> Finding:
    """What is wrong with Redis. Where it only refuses some of what is needed, the rest works."""
    detail = f"{part.host}: {said(trouble.error)}"
    level = DEGRADED if trouble.is_partial else UNHEALTHY
    if trouble.lacks:
        return Finding(level, explain(trouble.lacks), detail)
    message = messages.REDIS.get(trouble.word) or unanswered(part, trouble.error).message
    hurts = messages.WITHOUT_SOME if trouble.is_partial else messages.WITHOUT_REDIS
    if isinstance(trouble.error, MasterAlone):
        hurts = messages.WITHOUT_SENTINELS
    return Finding(level, f"{message} {hurts}", detail)


def auth_unanswered(part: Part, error: BaseException) -> Finding:
    """The auth service gave no answer."""
    connected = "ReadTimeout" in " ".join(type(cause).__name__ for cause in _causes(error))
    found = unanswered(part, error, was_sent=connected)
    return found._replace(message=f"{found.message} {messages.WITHOUT_AUTH}")


#: One of these stands in each 200 of the auth service.
VERDICT = frozenset(("valid", "is_valid", "user_id", "user"))

#: Not certain, or not for everybody: a service may answer 404 for keys that it does not know.
AUTH_DEGRADED = frozenset(("throttled", "no path", "no verdict"))


def auth_answer(
    part: Part,
    status: int,
    content_type: str,
    body: bytes,
    same_beside: bool,
    without_verdict: str = "",
) -> Finding:
    """What the answer to a question without a key means; 401 is right, and 200 with a verdict.
    `same_beside`: a path that does not exist is answered in the same way. `without_verdict` is why
    the last questions about keys got no verdict, "" where one did."""
    text = body[:200].decode("utf-8", "replace").strip()
    is_page = "html" in content_type or text.startswith("<")
    document = _json(body)
    is_verdict = isinstance(document, dict) and not VERDICT.isdisjoint(document)
    cases = (
        (status == 429, "throttled"),
        (status == 404 and same_beside, "no path"),
        (status >= 500, "fails"),
        (is_page or 300 <= status < 400 or status == 405, "another"),
        (status < 300 and not is_verdict, "another"),
        (bool(without_verdict), "no verdict"),
    )
    word = next((word for is_so, word in cases if is_so), None)
    if word is None:
        return Finding(HEALTHY, messages.WELL["auth"])
    message = messages.AUTH[word].format(status=status)
    if word in ("fails", "no verdict"):
        message = f"{message} {messages.WITHOUT_AUTH}"
    level = DEGRADED if word in AUTH_DEGRADED else UNHEALTHY
    detail = f" answered {status}: {text}" if word != "no verdict" else f": {without_verdict}"
    return Finding(level, message, f"{part.host}{detail}")


def circuits(mlflow: Mapping[str, str], auth: Mapping[str, str]) -> Finding:
    """What it means that the circuits of these workers are not closed (state by worker)."""
    detail = f"to MLflow: {_listed(mlflow)}; to the auth service: {_listed(auth)}"
    if mlflow:
        level = UNHEALTHY if "open" in mlflow.values() else DEGRADED
        return Finding(level, messages.CIRCUITS["mlflow"].format(workers=_workers(mlflow)), detail)
    if auth:
        message = messages.CIRCUITS["auth"].format(workers=_workers(auth))
        return Finding(DEGRADED, message, detail)
    return Finding(HEALTHY, messages.WELL["circuits"], detail)


def _workers(states: Mapping[str, str]) -> str:
    return f"{len(states)} worker" + ("" if len(states) == 1 else "s")


def _listed(states: Mapping[str, str]) -> str:
    listed = ", ".join(f"{state} in worker {worker}" for worker, state in sorted(states.items()))
    return listed or "closed"
