"""A TCP proxy that breaks things, between our proxy and Redis, the auth service or MLflow.

    with FaultProxy(server.port) as faults:
        start_proxy(REDIS_URL=f"redis://{faults.address}/0")
        faults.delay(0.1)             # every piece that the server sends comes 0.1 s later
        faults.stall()                # connections are taken, no byte passes, none is lost
        faults.refuse()               # nobody listens, and the live connections are reset
        faults.reset()                # the live connections are reset, once
        faults.cut(after=1000)        # each connection is reset when the server sent so much more
        faults.cut(after=10, of=CLIENT, with_reset=False)    # the same of the client, with a FIN
        faults.lead_to(port)          # another server stands there
        faults.heal()                 # as if it were not there

Every switch works on the connections that live and on those that come, and is thrown when its
method returns. Faults add up until `heal`. One event loop in a thread of its own carries it all.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from devstack.ports import HOST, free_port
from tests.upstreams import PIECE, WAIT_LIMIT, reset_on_close

T = TypeVar("T")

#: Whose bytes: those of the one that connected, or those of the one behind the proxy.
CLIENT, SERVER = "client", "server"


class FaultProxy:
    """Listens on `port`, and passes everything on to `target_port` of this machine."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()  # of a range in which nobody takes it while it refuses
        self.address = f"{HOST}:{self.port}"
        self.url = f"http://{self.address}"
        self.connections = 0  # accepted in all
        self._target_port = target_port
        self._delay = 0.0
        self._cut: tuple[str, int, bool] | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._live: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *why: object) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def delay(self, seconds: float) -> None:
        """Holds each piece of the server's bytes for some seconds: a round trip takes so much
        longer. The pieces (at most 256 KiB) wait one after the other."""
        self._do(self._set(_delay=seconds))

    def stall(self) -> None:
        """Passes nothing on, like a process that is frozen, or a network that drops packets."""
        self._do(self._stall())

    def refuse(self) -> None:
        """Refuses connections, and resets the live ones: the process is gone."""
        self._do(self._refuse())

    def reset(self) -> None:
        """Resets the live connections."""
        self._do(self._reset())

    def cut(self, after: int, of: str = SERVER, with_reset: bool = True) -> None:
        """Ends each connection, in both directions, once `after` more bytes of one side passed."""
        self._do(self._set(_cut=(of, after, with_reset)))

    def lead_to(self, port: int, with_reset: bool = True) -> None:
        """Something else listens behind it now; the live connections are reset, or go on as they
        were. `heal` does not lead back."""
        self._do(self._lead_to(port, with_reset))

    def heal(self) -> None:
        """Takes all faults back. What was stalled flows; what was reset stays so."""
        self._do(self._heal())

    # --- in the loop's thread ------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_LIMIT)

    async def _set(self, **switches: Any) -> None:
        for name, value in switches.items():
            setattr(self, name, value)
        for link in self._live:
            link.passed = {CLIENT: 0, SERVER: 0}

    async def _stall(self) -> None:
        self._flowing.clear()

    async def _listen(self) -> None:
        # Not asyncio's server: one that is closed while it accepts forgets a connection.
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=512)
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the client has gone already
        self.connections += 1
        self._tasks.add(self._loop.create_task(self._serve(connection)))

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        await self._reset()

    async def _reset(self) -> None:
        for link in list(self._live):
            link.end(with_reset=True)

    async def _lead_to(self, port: int, with_reset: bool) -> None:
        self._target_port = port
        if with_reset:
            await self._reset()

    async def _heal(self) -> None:
        await self._set(_delay=0.0, _cut=None)
        self._flowing.set()
        await self._listen()

    async def _stop(self) -> None:
        await self._refuse()
        while self._tasks:
            for link in self._live:
                link.task.cancel()
            await asyncio.wait(self._tasks, timeout=0.05)  # again: one may just have been accepted
        await asyncio.sleep(0)  # in which the last sockets are closed

    async def _serve(self, connection: socket.socket) -> None:
        """One connection, until either side or a fault ends it."""
        reader, writer = await asyncio.open_connection(sock=connection, limit=PIECE)
        task = asyncio.current_task()
        assert task is not None
        link = _Link(task, writer)
        self._live.add(link)
        try:
            await self._flowing.wait()
            behind, to_server = await asyncio.open_connection(HOST, self._target_port, limit=PIECE)
            link.writers.append(to_server)
            await asyncio.gather(
                self._pump(link, CLIENT, reader, to_server),
                self._pump(link, SERVER, behind, writer),
            )
            link.end(with_reset=False)
        except (OSError, asyncio.CancelledError):
            link.end(with_reset=True)
        finally:
            self._live.discard(link)
            self._tasks.discard(task)

    async def _pump(
        self, link: "_Link", side: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        """The bytes of one side, to their end."""
        while data := await source.read(PIECE):
            if side == SERVER and self._delay:
                await asyncio.sleep(self._delay)
            await self._flowing.wait()
            data = self._before_the_cut(link, side, data)
            sink.write(data)
            await sink.drain()
            if self._is_cut(link, side):
                assert self._cut is not None
                link.end(self._cut[2])
                return
        with contextlib.suppress(OSError):
            sink.write_eof()

    def _before_the_cut(self, link: "_Link", side: str, data: bytes) -> bytes:
        if self._cut is not None and self._cut[0] == side:
            data = data[: max(0, self._cut[1] - link.passed[side])]
        link.passed[side] += len(data)
        return data

    def _is_cut(self, link: "_Link", side: str) -> bool:
        return self._cut is not None and self._cut[0] == side and link.passed[side] >= self._cut[1]


class _Link:
    """One connection through the proxy. `passed` counts the bytes since a switch was thrown."""

    def __init__(self, task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        self.task = task
        self.writers = [writer]
        self.passed = {CLIENT: 0, SERVER: 0}

    def end(self, with_reset: bool) -> None:
        """Ends both its connections: with a RST, or with a FIN after what was written."""
        for writer in self.writers:
            if with_reset and not writer.is_closing():
                reset_on_close(writer.get_extra_info("socket"))
                writer.transport.abort()
            writer.close()
