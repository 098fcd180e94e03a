"""Where a part's servers live: started side by side, ended with the part, in a folder that goes."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from devstack.server import Server


class Stage:
    """A folder, and the servers in it."""

    def __init__(self, folder: Path, ends: ExitStack, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.ends = ends
        self.say = say

    def start(self, *servers: Server) -> None:
        """Starts these side by side and waits for all; they end with the stage."""
        for server in servers:
            server.start()
            self.ends.callback(server.stop)
        waiting = list(servers)
        while waiting:
            waiting = [server for server in waiting if not server.check()]
            if waiting:
                time.sleep(0.05)
            if any(server.age > 5 for server in waiting):
                self.say(f"waiting for {waiting[0].name}, {waiting[0].age:.0f} s")


@contextmanager
def stage(say: Callable[[str], None]) -> Iterator[Stage]:
    """A stage of its own for each part."""
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="hokusai-bench-")))
        yield Stage(folder, ends, say)
