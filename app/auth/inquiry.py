"""An inquiry: what one request names, judged by ALLOWED_LOCATIONS and by what MLflow says of it.

The questions are asked in the request's workspace. The roots of runs, logged models and experiments
never change, so an allowed one is remembered. The tags of a trace do; they are asked for each time.
Whose a logged model is changes only by the operator's `mlflow db move-resources`.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

from app.auth.locations import Locations, folded
from app.request.errors import BadRequest, Forbidden
from app.request.json_body import at

#: MLflow's tags of a trace that hold a location, as `folded` spells them.
ARTIFACTS, ARCHIVE = "mlflow.artifactlocation", "mlflow.trace.archivelocation"
TAGS = {ARTIFACTS: "mlflow.artifactLocation", ARCHIVE: "mlflow.trace.archiveLocation"}

#: The question about an object, and the path to its root in the answer.
RUN, MODEL, EXPERIMENT, VERSION = "run", "logged model", "experiment", "model version"
ROOTS = {
    RUN: ("/api/2.0/mlflow/runs/get?run_id={}", ("run", "info", "artifact_uri")),
    MODEL: ("/api/2.0/mlflow/logged-models/{}", ("model", "info", "artifact_uri")),
    EXPERIMENT: (
        "/api/2.0/mlflow/experiments/get?experiment_id={}",
        ("experiment", "artifact_location"),
    ),
    VERSION: (
        "/api/2.0/mlflow/model-versions/get-download-uri?name={}&version={}",
        ("artifact_uri",),
    ),
}
TRACES = "/api/3.0/mlflow/traces"
REGISTERED = "/api/2.0/mlflow/registered-models/get"

#: The most traces of one question, and the most questions about traces.
AT_ONCE, QUESTIONS = 100, 20

#: The most locations in the tags of one trace, and the most versions of a model that are looked at.
MOST_TAGS, MOST_VERSIONS = 16, 1000

#: How many allowed objects a worker remembers, and for how many seconds; a workspace's own ones.
MOST_KNOWN, LIFETIME, OWN_LIFETIME = 4096, 600.0, 10.0

#: References from one model version to the next that are followed.
DEPTH = 3


class Ask(Protocol):
    """Asks MLflow for the caller of a request, as Questions.ask."""

    def __call__(self, path: str, document: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The answer; None if MLflow has no such object."""


class Known:
    """The objects that were allowed lately. Shared by all threads."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, ...], float] = {}
        self._guard = threading.Lock()

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return self._until.get(key, 0.0) > time.monotonic()

    def add(self, key: tuple[str, ...], lifetime: float) -> None:
        """Remember it; forget the oldest one if there are too many."""
        with self._guard:
            self._until.pop(key, None)
            if len(self._until) >= MOST_KNOWN:
                del self._until[next(iter(self._until))]
            self._until[key] = time.monotonic() + lifetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """A request: its workspace ("" without workspaces), and what is in path, query and body."""

    ask: Ask
    locations: Locations
    known: Known
    workspace: str
    parameters: Mapping[str, str]
    query: list[tuple[str, str]]
    body: dict[str, Any]

    def named(self, *names: str) -> list[str]:
        """What the request names so, wherever: MLflow reads the body of a GET without a query, and
        of a HEAD; and a number as an id."""
        found = [self.parameters[name] for name in names if name in self.parameters]
        found += [value for name, value in self.query if name in names]
        found += [value for name in names for value in at(self.body, name)]
        if any(isinstance(value, dict) for value in found):
            raise BadRequest(f"An object is no {names[0]}.")
        return list(dict.fromkeys(str(value) for value in found if value not in (None, "")))

    def judge(self, what: str, location: object, is_scoped: bool = True) -> None:
        """Raise Forbidden for a location outside; `what` names it. `is_scoped` as in Locations."""
        if not self.locations.allow(str(location), self.workspace, is_scoped):
            where = " and the workspace" if self.workspace else ""
            raise Forbidden(
                f"{what} is a storage location outside ALLOWED_LOCATIONS{where}, so this API key "
                "may not use it; nothing was done. Use a location of MLflow's own choice, or ask "
                "the operator to allow this one."
            )

    def judge_tags(self, tags: Iterable[tuple[object, object]], *which: str) -> None:
        """Raise Forbidden for a trace's tag with a location outside."""
        named = [(folded(key), value) for key, value in tags if isinstance(key, str)]
        found = [(TAGS[name], value) for name, value in named if name in which]
        if len(found) > MOST_TAGS:
            raise BadRequest(f"The request has more than {MOST_TAGS} locations in a trace's tags.")
        for tag, value in found:
            self.judge(f"The trace's tag {tag}", value, is_scoped=False)

    def judge_root(
        self, kind: str, *names: str, depth: int = 0, unless: Iterable[str] = ()
    ) -> None:
        """Raise Forbidden if an object's root is outside, `unless` it is one of these. Of one that
        MLflow does not have, MLflow will say so itself."""
        key = (self.workspace, kind, *names)
        if key in self.known:
            return
        answer, roots = self._about(kind, *names)
        for root in roots or [""] * (answer is not None):
            if root in unless:
                continue
            reference = _reference(str(root)) if kind == VERSION and depth < DEPTH else None
            if reference:
                self.judge_root(*reference, depth=depth + 1)
            else:  # 3.17.2 scopes an experiment's root nowhere that it writes to it
                self.judge(f"The root of this {kind}", root, is_scoped=kind != EXPERIMENT)
        if answer is not None and kind != VERSION:
            self.known.add(key, LIFETIME)

    def judge_model(self, name: str) -> None:
        """Raise Forbidden for a logged model that the workspace does not have."""
        key = (self.workspace, "its own", name)
        if key in self.known:
            return
        if self._about(MODEL, name)[0] is None:
            raise Forbidden(
                f"The workspace {self.workspace!r} has no logged model with this model_id; nothing "
                "was logged. Name one of its own, or leave model_id out."
            )
        self.known.add(key, OWN_LIFETIME)

    def _about(self, kind: str, *names: str) -> tuple[dict[str, Any] | None, list[Any]]:
        question, path = ROOTS[kind]
        answer = self.ask(question.format(*(quote(name, safe="") for name in names)))
        return answer, [*at(answer, *path)]

    def newest(self, name: str) -> int:
        """The number of a registered model's newest version. MLflow's search could leave it out:
        its caller can tag a version as a prompt's."""
        answer = self.ask(f"{REGISTERED}?{urlencode({'name': name})}") or {}
        newest = max(
            map(int, at(answer, "registered_model", "latest_versions", "version")), default=0
        )
        if newest > MOST_VERSIONS:
            raise Forbidden(
                f"This model has more than {MOST_VERSIONS} versions, too many to look at; nothing "
                "was done. Ask the operator."
            )
        return newest

    def traces(self, ids: list[str]) -> Iterator[Mapping[str, Any]]:
        """MLflow's information about those of these traces that it has."""
        if len(ids) > AT_ONCE * QUESTIONS:
            raise BadRequest(f"Name at most {AT_ONCE * QUESTIONS} traces in one request.")
        for first in range(0, len(ids), AT_ONCE):
            chosen = {"trace_ids": ids[first : first + AT_ONCE]}
            yield from at(self._of_traces("batchGetInfos", chosen), "trace_infos")

    def _of_traces(self, question: str, document: dict[str, Any]) -> dict[str, Any]:
        """MLflow's answer, which it has for unknown traces, too."""
        answer = self.ask(f"{TRACES}/{question}", document)
        if answer is None:
            raise Forbidden(
                f"This MLflow is too old to say where its traces are ({question}), so only a key "
                "with the admin scope may do this."
            )
        return answer

    def archived(self, experiment: str) -> Iterator[Mapping[str, Any]]:
        """The same of an experiment's traces with a location of archived spans."""
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
        search: dict[str, Any] = {
            "locations": [place],
            "filter": f"tags.`{TAGS[ARCHIVE]}` IS NOT NULL",
            "max_results": AT_ONCE,
        }
        for _ in range(QUESTIONS):
            answer = self._of_traces("search", search)
            yield from at(answer, "traces")
            if not answer.get("next_page_token"):
                return
            search["page_token"] = answer["next_page_token"]
        raise Forbidden(
            f"This experiment has more than {AT_ONCE * QUESTIONS} archived traces, too many to "
            "look at before they are deleted by time; nothing was deleted. Delete them by id."
        )


def tags_of(trace: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The tags in MLflow's information about a trace."""
    return [*trace.get("tags", {}).items()]


def is_reference(source: str) -> bool:
    """Whether a model version's source names another object of MLflow's."""
    return source.partition(":")[0].lower() in ("runs", "models")


def _reference(source: str) -> tuple[str, ...] | None:
    """Kind and names of the object that a source names; None if it is a location, or unclear."""
    if not is_reference(source) or "%" in source or not source.isprintable():
        return None
    parts = urlsplit(source)
    first, *rest = parts.path.removeprefix("/").split("/")
    if parts.netloc or parts.query or parts.fragment or {"", ".", ".."} & {first, *rest}:
        return None
    if parts.scheme == "runs":
        return RUN, first
    if not rest and first.startswith("m-"):
        return MODEL, first
    return (VERSION, first, rest[0]) if len(rest) == 1 and rest[0].isdecimal() else None
