"""The door: an invented key is refused, the given one is let in, in each of its four forms."""

import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from app.doctor import explain
from app.doctor.parts import AUTH_REMEDY
from app.doctor.steps import Skipped, Steps
from app.doctor.way import REACHED
from app.doctor.wire import KEY_FORMS, Wire, credential, expect_unauthenticated

#: What the next stages need.
ACCEPTED = "the key is accepted"


@dataclass
class Door:
    """Asked at the detailed health, which any valid key opens and for which MLflow may be away;
    `detailed` is what it said."""

    wire: Wire
    detailed: dict[str, Any] = field(default_factory=dict)

    def invented_key(self) -> str:
        """One failed attempt; many would make the proxy refuse this address for a minute."""
        got = self._ask(credential(f"hk_test_{secrets.token_hex(16)}"))
        if got.status in (429, 503) and got.document() is not None:
            raise Skipped(f"the proxy answers {got.status}: {explain.excerpt(got)}")
        return expect_unauthenticated(got, "an invented key")

    def key(self) -> str:
        """As the SDK sends it."""
        got = self._ask(credential(self.wire.options.key))
        document = got.document() or {}
        if got.status in (200, 503) and "checks" in document:
            self.detailed = document
            return "as Bearer, the SDK's way"
        failed = explain.answer(got, "detailed health")
        if got.status == 503 and "error_code" in document:
            failed.fault, failed.remedy = "auth-service-down", AUTH_REMEDY
        raise failed

    def form(self, form: str) -> str:
        """One of the other forms."""
        got = self._ask(credential(self.wire.options.key, form))
        if got.status in (200, 503) and "checks" in (got.document() or {}):
            return "accepted"
        failed = explain.answer(got, "detailed health")
        if got.status == 401:
            failed.fault = "credential-lost"
            failed.remedy = "As Bearer it is accepted: a hop in front takes this header off."
        raise failed

    def _ask(self, headers: dict[str, str]) -> explain.Answer:
        return self.wire.get(f"{self.wire.target.prefix}/health/mlflow/detailed", headers)


def run(steps: Steps, door: Door) -> None:
    """The plainest first."""
    steps.run("an invented key is refused", door.invented_key, needs=REACHED)
    steps.run(ACCEPTED, door.key, needs=REACHED)
    for form in KEY_FORMS[1:]:
        steps.run(f"the key as {form}", partial(door.form, form), needs=ACCEPTED)
