"""`make run`: the whole product in the foreground, until Ctrl-C.

Exit status: 1 when a server could not start or died, else 128 and the signal.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from devstack.data_folder import BASE, DataFolder, claim
from devstack.ports import reserve
from devstack.server import Running, ServerFailed
from devstack.stack import Stack
from devstack.welcome import welcome


class Stopped(Exception):
    """A signal has arrived."""


class Signals:
    """Notes a signal for `check` to raise, so that no step is interrupted."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._on_terminal = False

    def listen(self) -> None:
        """Handle Ctrl-C, SIGTERM, and a closed terminal unless nohup ignores that."""
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._note)
            self._on_terminal = sys.stdout.isatty()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum

    def check(self) -> None:
        """Raise Stopped after a signal, or once the terminal is gone.

        Without a shell between terminal and make, only make gets the SIGHUP, and it just waits.
        """
        if self._on_terminal and not sys.stdout.isatty():
            self._note(signal.SIGHUP, None)
        if self.received:
            raise Stopped


def main() -> int:
    """Run everything; return the exit status."""
    options = _options()
    signals = Signals()
    signals.listen()
    try:
        base = BASE / "workspaces" if options.workspaces else BASE  # MLflow does not go back
        data = claim(options.folder, base)
    except BlockingIOError as error:
        say(f"cannot start: {error}")
        return 1
    if options.folder is None and data.folder != base:
        say(f"Another run uses {base}; this one keeps its own data.")
    return _run(data, options, signals)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=8000, help="the proxy's; a free one if it is taken (8000)"
    )
    parser.add_argument(
        "--workspaces", action="store_true", help="with two teams that see only their own work"
    )
    parser.add_argument("--folder", type=Path, help="where data and logs are kept (.devstack)")
    return parser.parse_args()


def _run(data: DataFolder, options: argparse.Namespace, signals: Signals) -> int:
    preferred_port, redis_url = options.port, os.environ.get("REDIS_URL")
    with reserve(preferred_port) as place, Running() as running:
        stack = Stack(data, place=place, redis_url=redis_url, workspaces=options.workspaces)
        if stack.proxy.port != preferred_port:
            say(f"Port {preferred_port} is taken; the proxy gets {stack.proxy.port}.")
        say(f"Starting Redis, MLflow, the auth service and the proxy in {data.folder} …")
        try:
            stack.start(running, say, signals.check)
            say(welcome(stack, data))
            stack.watch(signals.check)
        except Stopped:
            say("\nStopping …")
        except ServerFailed as failure:
            say(f"\n{failure}\n\nStopping the others …")
    say("Everything has ended.")
    return 128 + signals.received if signals.received else 1


def say(line: str) -> None:
    """Print, if the terminal is still there."""
    try:
        print(line, flush=True)
    except OSError:  # Python would try to write the rest at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
