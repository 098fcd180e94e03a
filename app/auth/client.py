"""Client of the auth service: validate a key, look one up; translate its responses and failures.

The auth service's contract lists its responses. Anything not clearly valid or invalid (5xx,
timeout, refused, not JSON, fields of the wrong type) is "unavailable", never "invalid": an outage
must not tell users that their keys are bad.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import orjson
import requests
from urllib3 import Timeout
from urllib3.exceptions import HTTPError

from app.auth.answer import read_principal, retry_after_seconds, throttled
from app.auth.connections import bare_session
from app.observability.metrics import count_auth_answer
from app.request.errors import AuthServiceUnavailable, RateLimited
from app.request.principal import Principal
from app.upstream.circuit import Circuit, Open

MAX_ANSWER = 64 * 1024  # bytes of the longest response that is read; a real one has a few hundred

INVALID = (401, 403, 404)
NOT_OFFERED = (404, 405, 501)  # of a look-up, whose response about an ended key is a 200
NOBODY = "hokusai-health-check"  # no key's id
THROTTLED_FOR = 10  # seconds in Retry-After if the service throttles and names none

#: Timeout in seconds of the probe without a key, sent after a call about a possible fake failed.
PROBE_TIMEOUT = 1.0

#: Validations in a row without a decision that count as a failure of the service, whatever it
#: answers without a key; and the seconds for which they count after the last one.
IN_A_ROW, REMEMBERED = 3, 60.0


class _NoDecision(Exception):
    """The service is up, but its response about this key is unusable. Does not open the circuit:
    one caller's key must not lock out the others."""


class NotOffered(Exception):
    """The service is up, but has no look-up of keys. The message has its status."""


class AuthService:
    """The auth service at `url`, for keys of `service_id`. Thread-safe."""

    def __init__(
        self, url: str, *, service_id: str, timeout: float, circuit: Circuit, lookup_token: str = ""
    ) -> None:
        """`timeout` is in seconds. The circuit spares callers the timeout while the service is
        down; it is separate from MLflow's. `lookup_token` as AUTH_LOOKUP_TOKEN."""
        self._url, self._lookup_url = f"{url}/api/v1/keys/validate", f"{url}/api/v1/keys/lookup"
        self._lookup_token = lookup_token
        self._service_id = service_id
        self._timeout = timeout
        self.circuit = circuit
        self._session = bare_session(url)
        self._in_a_row, self._last_failure, self._failed_at = 0, "", -math.inf

    @property
    def without_decision(self) -> str:
        """Why this worker's last questions about keys got no decision; "" where one did."""
        is_late = time.monotonic() > self._failed_at + REMEMBERED
        return "" if is_late or self._in_a_row < IN_A_ROW else self._last_failure

    def validate(
        self, key: str, client_ip: str, was_good: Callable[[], bool] = lambda: True
    ) -> Principal | None:
        """Validate one key; None if it is invalid. `was_good` returns whether it was valid lately.
        Anyone can invent a key that makes the service fail or stall, so a failure at any other key
        opens the circuit only if a probe without a key fails too.

        Raises RateLimited if the service throttles, AuthServiceUnavailable if it gives no decision.
        """
        return self._decision(partial(self._validate, key, client_ip), was_good)

    def look_up(self, key_id: str, client_ip: str) -> Principal | None:
        """Ask what a key is granted now; None if it has ended. A failure of the look-up alone opens
        no circuit. Raises as validate(), and NotOffered."""
        return self._decision(partial(self._look_up, key_id, client_ip), lambda: False)

    def _decision(
        self, ask: Callable[[], Principal | None], was_good: Callable[[], bool]
    ) -> Principal | None:
        """Ask through the circuit, and count the response."""
        answer = "unavailable"
        try:
            with self.circuit.attempt((AuthServiceUnavailable,)):
                principal = self._asked(ask, was_good)
            answer, self._in_a_row = "valid" if principal else "invalid", 0
            return principal
        except RateLimited:
            answer = "throttled"
            raise
        except NotOffered:
            answer = "not_offered"
            raise
        except Open:
            answer = "not_asked"
            self._give_up("was not called: its circuit is open")
        except AuthServiceUnavailable as why:
            self._note_failure(str(why.__cause__))
            raise
        except _NoDecision as why:
            self._note_failure(f"the auth service {why}")
            self._give_up(str(why))
        finally:
            count_auth_answer(answer)

    def _note_failure(self, why: str) -> None:
        self._in_a_row += 1
        self._last_failure, self._failed_at = why, time.monotonic()

    def _asked(
        self, ask: Callable[[], Principal | None], was_good: Callable[[], bool]
    ) -> Principal | None:
        """Ask; raise _NoDecision for a failure that the key, or the look-up, may have caused."""
        try:
            return ask()
        except AuthServiceUnavailable as why:
            if not self.circuit.is_about_to_open or was_good() or not self._is_there():
                raise
            if self.circuit.state == "half-open":  # this key was the probe
                self.circuit.reset()
            raise _NoDecision(f"fails with this key, not without one: {why.__cause__}") from why

    def _is_there(self) -> bool:
        """Whether the service refuses a probe without a key, as it should: by its status or in its
        body."""
        try:
            status, _, body = self.ping(min(PROBE_TIMEOUT, self._timeout))
            return 400 <= status < 500 or (status == 200 and self._principal(body) is None)
        except (AuthServiceUnavailable, _NoDecision):
            return False

    def _validate(self, key: str, client_ip: str) -> Principal | None:
        status, headers, body = self._ask(
            {"service_id": self._service_id, "client_ip": client_ip},
            {"Authorization": f"Bearer {key}"},
        )
        return None if status in INVALID else self._read(status, headers, body)

    def _look_up(self, key_id: str, client_ip: str) -> Principal | None:
        status, headers, body = self._ask_about(key_id, client_ip)
        if status in NOT_OFFERED:
            raise NotOffered(str(status))
        principal = self._read(status, headers, body)
        if principal is not None and principal.key_id != key_id:
            raise _NoDecision("sent the decision about another key")
        return principal

    def lookup_status(self, timeout: float) -> int:
        """Look up a key that does not exist, bypassing the circuit. The status should be 200.
        Raises AuthServiceUnavailable if there is no usable response."""
        try:
            return self._ask_about(NOBODY, "127.0.0.1", timeout)[0]
        except _NoDecision as why:
            self._give_up(str(why))

    def _ask_about(
        self, key_id: str, client_ip: str, timeout: float | None = None
    ) -> tuple[int, Any, bytes]:
        question = {"service_id": self._service_id, "client_ip": client_ip, "key_id": key_id}
        token = {"Authorization": f"Bearer {self._lookup_token}"}
        return self._ask(question, token, timeout, self._lookup_url)

    def _read(self, status: int, headers: Any, body: bytes) -> Principal | None:
        """Read a response; None for an invalid key."""
        if status == 429:
            raise throttled(retry_after_seconds(headers.get("Retry-After", ""), THROTTLED_FOR))
        if 400 <= status < 500:
            raise _NoDecision(f"answered {status}")
        if status != 200:
            self._give_up(f"answered {status}")
        return self._principal(body)

    def ping(self, timeout: float, beside: str = "") -> tuple[int, str, bytes]:
        """Probe without a key, bypassing the circuit: (status, Content-Type, body). The status
        should be 401. `beside` is appended to the path.

        Raises AuthServiceUnavailable if there is no usable response.
        """
        question = {"service_id": self._service_id}
        try:
            status, headers, body = self._ask(question, {}, timeout, self._url + beside)
        except _NoDecision as why:
            self._give_up(str(why))
        return status, headers.get("Content-Type", ""), body

    def _ask(
        self,
        question: dict[str, str],
        headers: dict[str, str],
        timeout: float | None = None,
        url: str = "",
    ) -> tuple[int, Any, bytes]:
        """POST the JSON `question`; return (status, headers, body)."""
        timeout = timeout or self._timeout
        deadline = time.monotonic() + timeout
        try:
            with self._session.post(
                url or self._url,
                json=question,
                headers=headers,
                timeout=Timeout(total=timeout),  # type: ignore[arg-type] # connecting and the head
                allow_redirects=False,
                stream=True,
            ) as response:
                return response.status_code, response.headers, self._body(response, deadline)
        except (requests.RequestException, HTTPError, OSError, ValueError) as why:
            # The exception's text is withheld: it can hold the address and the request's headers.
            self._give_up(f"did not respond: {type(why).__name__}")

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        """Read the response body, within the deadline and MAX_ANSWER."""
        body = b""
        # read1 returns what has arrived: waiting for a full chunk could exceed the deadline.
        while piece := response.raw.read1(8192, decode_content=True):
            body += piece
            if len(body) > MAX_ANSWER:
                raise _NoDecision(f"sent more than {MAX_ANSWER} bytes")
            if time.monotonic() > deadline:
                self._give_up("responded too slowly")
        return body

    def _principal(self, body: bytes) -> Principal | None:
        """Parse a 200: the principal, or None for an invalid key."""
        try:
            answer = orjson.loads(body)
        except ValueError:
            self._give_up("sent a response that is not JSON")
        if not isinstance(answer, dict):
            self._give_up("sent JSON that is not an object")
        decisions = (answer.get("valid", True), answer.get("is_valid", True))
        if False in decisions:
            return None
        if decisions != (True, True):
            raise _NoDecision("sent a decision that is neither true nor false")
        try:
            return read_principal(answer, self._service_id)
        except ValueError as why:
            raise _NoDecision(f"sent no usable {why}") from None

    def _give_up(self, why: str) -> NoReturn:
        """Raise AuthServiceUnavailable. Its cause is logged, not sent to the caller."""
        raise AuthServiceUnavailable(
            "API keys cannot be validated: the auth service is unavailable. This says nothing "
            "about your key. Repeat the request later."
        ) from RuntimeError(f"the auth service {why}")
