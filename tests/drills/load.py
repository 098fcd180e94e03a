"""Load: clients that ask one after the other, each in a thread, and write down what they saw."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, TypeVar

from tests.wire import Response, Wire

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """One answer: its status (0: the connection broke before it was whole), when it was asked for
    (monotonic seconds), and how long that took."""

    status: int
    began: float
    seconds: float


class Client:
    """A client with one kept-alive connection to `url`, opened when it is needed.

    Like every HTTP client it looks, before it sends, whether the server has closed.
    """

    def __init__(self, url: str, timeout: float = 20.0) -> None:
        """`timeout` is in seconds, for each read."""
        self._url = url
        self._timeout = timeout
        self._wire: Wire | None = None

    def ask(self, request: bytes) -> Response:
        """The answer; its status is 0 where the connection broke."""
        if self._wire is not None and _was_closed(self._wire):
            self.close()
        if self._wire is None:
            self._wire = Wire(self._url)
        self._wire.socket.settimeout(self._timeout)
        try:
            answer = self._wire.ask(request)
        except OSError:
            answer = Response(0, (), b"", False, "rst")
        if not answer.whole or (answer.one("Connection") or "").lower() == "close":
            self.close()
        return answer

    def close(self) -> None:
        """Ends the connection."""
        if self._wire is not None:
            self._wire.socket.close()
            self._wire = None


def _was_closed(wire: Wire) -> bool:
    wire.socket.setblocking(False)
    try:
        return wire.socket.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        wire.socket.settimeout(20)


class Load:
    """`clients` threads, each asking again and again: what `ask(number of the client)` returns is
    written down in `seen`. A context manager; the load ends with it."""

    def __init__(self, ask: Callable[[int], int], clients: int, pause: float = 0.0) -> None:
        """`pause` is in seconds, between two requests of one client."""
        self.seen: list[Seen] = []
        self.failures: list[BaseException] = []
        self._ask = ask
        self._pause = pause
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *why: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self.failures and not any(why):
            raise self.failures[0]

    @property
    def statuses(self) -> list[int]:
        """All statuses, in the order in which the answers came."""
        return [seen.status for seen in self.seen]

    def since(self, moment: float) -> list[Seen]:
        """What was asked for after a moment."""
        return [seen for seen in list(self.seen) if seen.began >= moment]

    def _run(self, number: int) -> None:
        try:
            while not self._over.is_set():
                self.seen.append(timed(lambda: self._ask(number)))
                self._over.wait(self._pause)
        except BaseException as failure:
            self.failures.append(failure)


def timed(ask: Callable[[], int]) -> Seen:
    """One request."""
    began = time.monotonic()
    status = ask()
    return Seen(status, began, time.monotonic() - began)


def recovery(seen: Sequence[Seen], healed: float, good: tuple[int, ...] = (200,)) -> float:
    """Seconds from `healed` to the first good answer; infinite if none came."""
    ends = [one.began + one.seconds for one in seen if one.status in good]
    return min((end - healed for end in ends if end >= healed), default=float("inf"))


def all_at_once(action: Callable[[int], T], count: int) -> list[T]:
    """What `action(0)` to `action(count - 1)` return, all begun at the same moment."""
    start = threading.Barrier(count)

    def run(number: int) -> T:
        start.wait(20)
        return action(number)

    return in_parallel(run, count, count)


def in_parallel(action: Callable[[int], T], count: int, threads: int) -> list[T]:
    """What `action(0)` to `action(count - 1)` return, so many at a time."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(action, range(count)))
