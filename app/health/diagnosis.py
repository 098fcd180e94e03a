"""What a failure or a response means: from exceptions, statuses and texts to a finding.

Pure decisions. A finding's message is public and comes from the catalogue (faults.tsv); its detail,
with host names and the words of libraries, is for callers with a key.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from app.health.faults import FAULTS, Fault, causes, fault, why_no_response
from app.state.redis_faults import message_of
from app.state.redis_link import Trouble
from app.state.redis_rights import explain
from app.state.redis_sentinel import MasterAlone
from app.upstream.answers import NO_PERMISSION
from app.upstream.identity import OWN_USER

HEALTHY, DEGRADED, UNHEALTHY = "healthy", "degraded", "unhealthy"

#: The list in the response to each check; MLflow leaves out an empty one.
LISTS = {
    "experiments_api": "experiments",
    "models_api": "registered_models",
    "artifacts_api": "files",
}

#: The consequence of a fault, behind its message.
WITHOUT_REDIS = "Until then, each instance counts limits on its own and misses revocations."
WITHOUT_SOME = "Until then, limits, sessions and decisions of the affected nodes do not use Redis."
WITHOUT_SENTINELS = "Until then, the master that they named last is used."
WITHOUT_AUTH = "Keys with a recent answer still work; others get 503."


class Finding(NamedTuple):
    """What a check found: one of the three words, a message, a detail for operators. `fault` is
    None where all is well."""

    status: str
    message: str
    detail: str = ""
    fault: Fault | None = None


def bad(status: str, fault: Fault, detail: str, *notes: str) -> Finding:
    """A finding with a fault; `notes` follow its message."""
    return Finding(status, " ".join((str(fault), *notes)), detail, fault)


class Part(NamedTuple):
    """Something that the proxy depends on: its name, the variable with its address, the host and
    port in there, and how the codes of its faults begin."""

    name: str
    setting: str
    host: str
    code: str

    @property
    def hostname(self) -> str:
        """The host's name, of several hosts the first one's; "" for a Unix socket."""
        return urlsplit(f"//{self.host.partition(',')[0]}").hostname or ""

    def no_response(self, word: str) -> Fault:
        """The fault behind a word of why_no_response."""
        kind = {"dns": "dns", "name server": "dns", "silent": "slow"}.get(word, "down")
        code = f"{self.code}-{kind}"
        found = fault(f"network.{word}", part=self.name, setting=self.setting)
        return found._replace(code=code if code in FAULTS else f"{self.code}-down")


def mlflow_at(url: str) -> Part:
    """MLflow at this address."""
    return Part("MLflow", "MLFLOW_SERVER_URL", urlsplit(url).netloc, "mlflow")


def auth_service_at(url: str) -> Part:
    """The auth service at this address."""
    host = urlsplit(url).netloc
    return Part("The auth service", "HOKUSAI_AUTH_SERVICE_URL", host, "auth-service")


#: What names the address of Redis, where REDIS_URL alone does not.
ANNOUNCED = {
    "+sentinel://": "REDIS_URL (or what the Sentinels announce)",
    "+cluster://": "REDIS_URL (or what the nodes announce)",
}


def redis_at(url: str) -> Part:
    """Redis at this address, without its credentials."""
    setting = next((name for kind, name in ANNOUNCED.items() if kind in url), "REDIS_URL")
    return Part("Redis", setting, without_credentials(url).partition("://")[2], "redis")


def without_credentials(url: str) -> str:
    """A URL without user, password and query; also one with several hosts."""
    scheme, separator, rest = url.partition("?")[0].partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def no_response(part: Part, error: BaseException, was_sent: bool = False) -> Finding:
    """No response came. `was_sent`: the request was sent."""
    why = part.no_response(why_no_response(error, was_sent))
    return bad(UNHEALTHY, why, f"{part.host}: {list(causes(error))[-1]}")


# --- MLflow --------------------------------------------------------------------------------------

#: The proxy can still forward requests.
MLFLOW_DEGRADED = frozenset(("no artifacts", "throttled"))


def mlflow_response(
    check: str,
    part: Part,
    status: int,
    body: bytes,
    *,
    has_key: bool,
    signs: bool = False,
    by_mlflow: bool = False,
) -> Finding:
    """What MLflow's response to a check means. `has_key`: the proxy sends MLflow credentials.
    `signs`: they name a user who may do nothing. `by_mlflow`: as far as one can tell, MLflow itself
    wrote the response."""
    text, document = _text(body), _json(body)
    is_object = isinstance(document, dict)
    word: str | None
    if status == 200:
        word = _mlflow_200(check, text, document)
    elif signs and status == 403 and text == NO_PERMISSION:
        word = None  # it knows this user
    elif status == 508 or (is_object and {"error_code", "request_id"} <= {*document}):
        word = "loop"  # MLflow's errors have no request id
    elif check == "artifacts_api" and is_object and "error_code" in document:
        word = "fails"  # S3's refusals of MLflow: 401, 403, and 404 for its bucket
    else:
        word = _mlflow_failure(status, text, has_key, is_api=is_object or by_mlflow)
    if word is None:
        return Finding(HEALTHY, "MLflow answers.")
    detail = f"{part.host} answered {status}: {text}"
    if word == "host":
        detail = f"mlflow server --allowed-hosts {part.host}"
    level = DEGRADED if word in MLFLOW_DEGRADED else UNHEALTHY
    return bad(level, fault(f"mlflow.{word}", status=status), detail)


def mlflow_user(part: Part, status: int, body: bytes) -> Finding:
    """What it means whom MLflow takes for the caller of a signed request."""
    document = _json(body)
    user = document.get("user") if isinstance(document, dict) else None
    if isinstance(user, dict) and user.get("username") == OWN_USER:
        return Finding(HEALTHY, "MLflow answers.")
    detail = f"{part.host} answered {status}: {_text(body)}"
    return bad(DEGRADED, fault("mlflow.unsigned"), detail)


def _mlflow_failure(status: int, text: str, has_key: bool, is_api: bool) -> str:
    """A key of the catalogue without its `mlflow.`."""
    cases = (
        (status == 403 and "Invalid Host" in text, "host"),
        ("--no-serve-artifacts" in text, "no artifacts"),
        ("--artifacts-only" in text, "artifacts only"),
        (status == 403 and text == NO_PERMISSION and has_key, "permission"),
        (status in (401, 403), "credentials" if has_key else "no credentials"),
        (status == 404, "not found"),
        (300 <= status < 400, "redirect"),
        (status == 429, "throttled"),
        (status in (502, 503, 504) and not is_api, "intermediary"),
    )
    return _first(cases) or "fails"


def _mlflow_200(check: str, text: str, document: Any) -> str | None:
    if text.startswith("<"):  # not by its type: MLflow calls its plain /health text/html too
        return "page"
    wanted = LISTS.get(check)
    is_list = isinstance(document, dict) and (not document or wanted in document)
    is_long_list = text.startswith("{") and f'"{wanted}"' in text  # cut, so it is no JSON
    return None if wanted is None or is_list or is_long_list else "another"


def _first(cases: Iterable[tuple[bool, str]]) -> str | None:
    return next((word for is_so, word in cases if is_so), None)


def _text(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace").strip()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


# --- Redis, the auth service, the circuits -------------------------------------------------------


def redis_trouble(part: Part, trouble: Trouble) -> Finding:
    """What is wrong with Redis. A partial trouble leaves some commands working."""
    detail = f"{part.host}: {message_of(trouble.error)}"
    level = DEGRADED if trouble.is_partial else UNHEALTHY
    if trouble.lacks:
        message, add, remedy = explain(trouble.lacks).partition(" Add to its ACL")
        found = fault("redis.permission", message=message, remedy=(add + remedy).strip())
        return bad(level, found, detail)
    if f"redis.{trouble.word}" in FAULTS:
        found = fault(f"redis.{trouble.word}")
    else:
        found = part.no_response(why_no_response(trouble.error))
    return bad(level, found, detail, _without_redis(trouble))


def _without_redis(trouble: Trouble) -> str:
    if isinstance(trouble.error, MasterAlone):
        return WITHOUT_SENTINELS
    return WITHOUT_SOME if trouble.is_partial else WITHOUT_REDIS


def auth_no_response(part: Part, error: BaseException) -> Finding:
    """The auth service did not answer."""
    was_sent = any("ReadTimeout" in type(cause).__name__ for cause in causes(error))
    found = no_response(part, error, was_sent)
    return found._replace(message=f"{found.message} {WITHOUT_AUTH}")


#: Each 200 of the auth service has one of these.
DECISION = frozenset(("valid", "is_valid", "user_id", "user"))

#: Not certain, or not for everybody: a service may answer 404 for keys that it does not know.
AUTH_DEGRADED = frozenset(("throttled", "no path", "no look-up", "no decision"))


def auth_response(
    part: Part,
    status: int,
    content_type: str,
    body: bytes,
    same_beside: bool,
    without_decision: str = "",
    lookup: str = "200",
) -> Finding:
    """What the response to a request without a key means; 401 is right, and 200 with a decision.
    `same_beside`: a path that does not exist gets the same response. `without_decision`: why the
    last requests with a key got no decision; "" where one did. `lookup`: the status of a look-up,
    "none" without a response."""
    text, document = _text(body), _json(body)
    is_page = "html" in content_type or text.startswith("<")
    is_decision = isinstance(document, dict) and not DECISION.isdisjoint(document)
    cases = (
        (status == 429, "throttled"),
        (status == 404 and same_beside, "no path"),
        (status >= 500, "fails"),
        (is_page or 300 <= status < 400 or status == 405, "another"),
        (status < 300 and not is_decision, "another"),
        (lookup != "200", "no look-up"),
        (bool(without_decision), "no decision"),
    )
    word = _first(cases)
    if word is None:
        return Finding(HEALTHY, "The auth service answers.")
    notes = [WITHOUT_AUTH] if word in ("fails", "no decision") else []
    level = DEGRADED if word in AUTH_DEGRADED else UNHEALTHY
    others = {
        "no look-up": f" answered {lookup} to a look-up",
        "no decision": f": {without_decision}",
    }
    detail = others.get(word, f" answered {status}: {text}")
    wrong = fault(f"auth.{word}", status=lookup if word == "no look-up" else status)
    return bad(level, wrong, f"{part.host}{detail}", *notes)


def circuits(mlflow: Mapping[str, str], auth: Mapping[str, str]) -> Finding:
    """What it means that the circuits of these workers are not closed (state by worker)."""
    detail = f"to MLflow: {_listed(mlflow)}; to the auth service: {_listed(auth)}"
    for name, states in (("mlflow", mlflow), ("auth_service", auth)):
        if states:
            workers = f"{len(states)} worker" + ("" if len(states) == 1 else "s")
            level = UNHEALTHY if "open" in mlflow.values() else DEGRADED
            return bad(level, fault(f"circuit.{name}", workers=workers), detail)
    return Finding(HEALTHY, "The circuits are closed in every worker.", detail)


def _listed(states: Mapping[str, str]) -> str:
    listed = ", ".join(f"{state} in worker {worker}" for worker, state in sorted(states.items()))
    return listed or "closed"
