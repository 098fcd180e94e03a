"""Client of the auth service: one question, and its answers and failures in our words.

The table of answers stands in the contract. What is not clearly a yes or a no (5xx, time-out,
refused, not JSON, fields of the wrong kind) is "unavailable", never a no: an outage must not tell
users that their keys are bad.
"""

import math
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NoReturn

import certifi
import orjson
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context

from app.auth.answer import read_principal
from app.observability.metrics import count_auth_answer
from app.request.errors import AuthServiceUnavailable, RateLimited
from app.request.principal import Principal
from app.upstream.circuit import Circuit, Open
from app.upstream.connection import TARGET, Connection

#: Bytes of an answer that are read; a real one has a few hundred.
MAX_ANSWER = 64 * 1024

#: Seconds after its connect for which a connection is reused: the service's name may move.
MAX_AGE = 60.0

INVALID = (401, 403, 404)

#: Seconds for a question without a key, after one about a key that may be made up got no answer.
PROBE_TIMEOUT = 1.0

#: So many questions about keys in a row without a verdict are a failure of the service, whatever it
#: says without a key; seconds after the last of them for which they count.
IN_A_ROW, REMEMBERED = 3, 60.0


class _NoVerdict(Exception):
    """The service is there, and what it says of this one key cannot be used. It does not open the
    circuit: one caller's key, good or bad, must not shut the others out."""


class AuthService:
    """The auth service at `url`, asked for keys of `service_id`. Safe to share among threads."""

    def __init__(
        self, url: str, *, service_id: str, timeout: float, retry_after: int, circuit: Circuit
    ) -> None:
        """`timeout` and `retry_after` (what a caller is told after a failure) are in seconds. The
        circuit spares callers the time-out while the service is down; it is not MLflow's."""
        self._url = f"{url}/api/v1/keys/validate"
        self._service_id = service_id
        self._timeout = timeout
        self._retry_after = retry_after
        self.circuit = circuit
        self._session = _bare_session()
        self._in_a_row, self._last_failure, self._failed_at = 0, "", -math.inf

    @property
    def without_verdict(self) -> str:
        """Why this worker's last questions about keys got no verdict; "" where one did."""
        is_late = time.monotonic() > self._failed_at + REMEMBERED
        return "" if is_late or self._in_a_row < IN_A_ROW else self._last_failure

    def validate(
        self, key: str, client_ip: str, was_good: Callable[[], bool] = lambda: True
    ) -> Principal | None:
        """Asks about one key; None means that it is invalid. `was_good` tells whether it was valid
        lately: anybody can make up another at which the service fails, or which it delays. So such
        a failure opens the circuit only if a question without a key fails too.

        Raises RateLimited if the service throttles us, AuthServiceUnavailable if it has no answer.
        """
        answer = "unavailable"
        try:
            with self.circuit.attempt((AuthServiceUnavailable,)):
                principal = self._answer_about(key, client_ip, was_good)
            answer, self._in_a_row = "valid" if principal else "invalid", 0
            return principal
        except RateLimited:
            answer = "throttled"
            raise
        except Open:
            answer = "not_asked"
            self._give_up("is left alone, its circuit is open")
        except AuthServiceUnavailable as why:
            self._note_failure(str(why.__cause__))
            raise
        except _NoVerdict as why:
            self._note_failure(f"the auth service {why}")
            self._give_up(str(why))
        finally:
            count_auth_answer(answer)

    def _note_failure(self, why: str) -> None:
        self._in_a_row += 1
        self._last_failure, self._failed_at = why, time.monotonic()

    def _answer_about(
        self, key: str, client_ip: str, was_good: Callable[[], bool]
    ) -> Principal | None:
        """The answer; _NoVerdict for a failure that the key may have caused."""
        try:
            return self._validate(key, client_ip)
        except AuthServiceUnavailable as why:
            if not self.circuit.is_about_to_open or was_good() or not self._is_there():
                raise
            if self.circuit.state == "half-open":  # this key was the probe
                self.circuit.reset()
            raise _NoVerdict(f"fails at this key, not without one: {why.__cause__}") from why

    def _is_there(self) -> bool:
        """Whether it refuses a question without a key, as it should: by its status or in words."""
        try:
            status, _, body = self.ping(min(PROBE_TIMEOUT, self._timeout))
            return 400 <= status < 500 or (status == 200 and self._principal(body) is None)
        except (AuthServiceUnavailable, _NoVerdict):
            return False

    def _validate(self, key: str, client_ip: str) -> Principal | None:
        status, headers, body = self._ask(
            {"service_id": self._service_id, "client_ip": client_ip},
            {"Authorization": f"Bearer {key}"},
        )
        if status in INVALID:
            return None
        if status == 429:
            raise throttled(retry_after_seconds(headers.get("Retry-After", ""), self._retry_after))
        if 400 <= status < 500:
            raise _NoVerdict(f"answered {status}")
        if status != 200:
            self._give_up(f"answered {status}")
        return self._principal(body)

    def ping(self, timeout: float, beside: str = "") -> tuple[int, str, bytes]:
        """Asks without a key, past the circuit, to see who answers: the status, which should be
        401, the Content-Type, and the body. `beside` is added to the path.

        Raises AuthServiceUnavailable if nobody does.
        """
        question = {"service_id": self._service_id}
        try:
            status, headers, body = self._ask(question, {}, timeout, self._url + beside)
        except _NoVerdict as why:
            self._give_up(str(why))
        return status, headers.get("Content-Type", ""), body

    def _ask(
        self,
        question: dict[str, str],
        headers: dict[str, str],
        timeout: float | None = None,
        url: str = "",
    ) -> tuple[int, Any, bytes]:
        """POSTs the question; (status, headers, body)."""
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
            # Its text is not passed on: it can hold the address, and the request's headers.
            self._give_up(f"gave no answer: {type(why).__name__}")

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        """The answer's body, within the deadline and MAX_ANSWER."""
        body = b""
        # What is there, however little: waiting for a whole piece could take for ever.
        while piece := response.raw.read1(8192, decode_content=True):
            body += piece
            if len(body) > MAX_ANSWER:
                raise _NoVerdict("answered too much")
            if time.monotonic() > deadline:
                self._give_up("answered too slowly")
        return body

    def _principal(self, body: bytes) -> Principal | None:
        """Reads a 200: the principal, None for a no."""
        try:
            answer = orjson.loads(body)
        except ValueError:
            self._give_up("answered something that is not JSON")
        if not isinstance(answer, dict):
            self._give_up("answered something that is not an object")
        verdicts = (answer.get("valid", True), answer.get("is_valid", True))
        if False in verdicts:
            return None
        if verdicts != (True, True):
            raise _NoVerdict("answered neither yes nor no")
        try:
            return read_principal(answer, self._service_id)
        except ValueError as why:
            raise _NoVerdict(f"answered without a usable {why}") from None

    def _give_up(self, why: str) -> NoReturn:
        """Raises AuthServiceUnavailable; its cause is for the operator."""
        raise AuthServiceUnavailable(
            "API keys cannot be validated at the moment (the auth service gives no answer); "
            "nothing is wrong with your key as far as we know. Repeat the request later.",
            self._retry_after,
        ) from RuntimeError(f"the auth service {why}")


def throttled(seconds: int) -> RateLimited:
    """What a caller is told while the auth service throttles validations."""
    return RateLimited(
        "The auth service is throttling validations; repeat the request later.", seconds
    )


def retry_after_seconds(value: str, default: int) -> int:
    """A Retry-After as whole seconds, 1 to 3600: it may come as a number or as a date."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            seconds = default
    if not math.isfinite(seconds):
        seconds = default
    return int(min(max(1.0, -(-seconds // 1)), 3600.0))


def _bare_session() -> requests.Session:
    """A session that adds nothing of its own: no .netrc, no proxy variables (trust_env), no cookie
    that one user's answer sets and the next user's request carries. No retries: the caller decides.
    """
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _Adapter(pool_maxsize=16)  # one: loading the authorities takes 25 ms
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Connection(Connection):
    """The connection that MLflow is asked on, with its bounds, for requests. Its write timeout is
    Connection's: a question is a few hundred bytes."""

    reuse_for = math.inf  # urllib3 asks whether it is still open
    max_age = MAX_AGE
    counted = False

    def request(
        self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any
    ) -> None:
        """Sends the question, with the target and Host that http.client would add."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != self.default_port:
            host = f"{host}:{self.port}"
        super().request(method, url, body, {**headers, TARGET: url, "Host": host}, **options)


class _ConnectionTLS(_Connection, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _PoolTLS(HTTPSConnectionPool):
    ConnectionCls = _ConnectionTLS


class _Adapter(HTTPAdapter):
    """For requests: uses these connections. It trusts whom MLflow's connections trust (the
    machine's store, or SSL_CERT_FILE), and certifi's authorities, all that requests would trust."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Called by HTTPAdapter's constructor."""
        trust = create_urllib3_context()
        trust.load_default_certs()
        trust.load_verify_locations(certifi.where())
        super().init_poolmanager(*arguments, **options, ssl_context=trust)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Called for each request; requests would load certifi's authorities anew."""
        conn.cert_reqs = "CERT_REQUIRED"
