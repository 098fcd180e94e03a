"""A new version of the proxy and back to the old one, under load; and a version that cannot start.

As an orchestrator does it: the instances of the other version start beside those that serve, join
when their /ready is 200, and only then the others get SIGTERM. Each version runs from a folder of
its own; they share Redis, the auth service and a real MLflow, as versions do that follow each
other.
"""

import json
import os
import re
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from devstack.environments import ROOT
from devstack.proxy import Proxy
from tests.drills.load import Load
from tests.drills.report import Row, counted, p99_ms
from tests.drills.restarts import Instances, load_on
from tests.drills.stage import Stage
from tests.upstreams import eventually

#: What a deployed version is made of.
CODE = ("app", "config", "wsgi.py", "gunicorn.conf.py")
OLD, NEW = "1.0.0-old", "1.0.1-new"
INSTANCES = 2


class Release(Proxy):
    """The proxy out of a folder of its own, which holds its code."""

    in_repository = False


def checkout(version: str, code: Path, into: Path) -> Path:
    """A copy of the code in a folder that says of itself to be this version."""
    for name in CODE:
        copy = shutil.copytree if (code / name).is_dir() else shutil.copy
        copy(code / name, into / name)
    file = into / "config" / "version.py"
    file.write_text(re.sub(r'VERSION = ".*"', f'VERSION = "{version}"', file.read_text()))
    return into


class Deployment:
    """Versions of the proxy that replace each other behind a round robin.

    `code` is where the old version's code comes from; the new one's is this repository's.
    """

    def __init__(self, stage: Stage, code: Path = ROOT) -> None:
        self._stage = stage
        self._settings = {
            "MLFLOW_SERVER_URL": stage.mlflow().url,
            "HOKUSAI_AUTH_SERVICE_URL": stage.auth_url,
            "REDIS_URL": stage.redis_url,
            "AUTH_CACHE_SECRET": "the same for both versions",
            "WEB_CONCURRENCY": "1",
            "DRAIN_DELAY": "1",
            "GRACEFUL_TIMEOUT": "20",
            "HEALTH_CACHE_TTL": "0",
        }
        self._folders = {}
        for version, source in ((OLD, code), (NEW, ROOT)):
            folder = stage.folder / version
            folder.mkdir()
            self._folders[version] = checkout(version, source, folder)

    def start(self, version: str, more: Mapping[str, str] | None = None) -> list[Proxy]:
        """Instances of a version, started; nobody waits for them yet."""
        releases: list[Proxy] = []
        for number in range(INSTANCES):
            release = Release(self._folders[version], self._settings | dict(more or {}))
            release.log = self._stage.folder / f"{version}-{number}-{release.port}.log"
            releases.append(release)
            self._stage.started.append(release)
            release.start()
        return releases

    def replace(self, instances: Instances, version: str) -> str:
        """The instances of this version in the place of those that serve; what took how long."""
        began, before = time.monotonic(), list(instances.proxies)
        after = self.start(version)
        for release in after:
            release.wait_until_ready()
        ready = time.monotonic()
        instances.proxies += after
        eventually(lambda: set(after) <= set(instances.ready), "the others to be asked too")
        joined = time.monotonic()
        for proxy in before:
            os.kill(proxy.pid, signal.SIGTERM)
        eventually(lambda: not any(proxy.is_running() for proxy in before), "their end", 40)
        gone = time.monotonic()
        instances.proxies[:] = after
        eventually(lambda: set(instances.ready) == set(after), "only the others to be asked")
        if (seen := versions(after)) != {version}:
            raise AssertionError(f"{seen} serve instead of {version}")
        return (
            f"ready {ready - began:.1f} s, in use {joined - ready:.1f} s, "
            f"the others drained and gone {gone - joined:.1f} s, in all {gone - began:.1f} s"
        )


def versions(proxies: list[Proxy]) -> set[str]:
    """What the proxies say at /health."""
    answers = (urllib.request.urlopen(f"{proxy.url}/health", timeout=10) for proxy in proxies)
    return {str(json.load(answer)["version"]) for answer in answers}


def drill(stage: Stage, code: Path = ROOT, clients: int = 8, between: float = 3.0) -> Iterator[Row]:
    """Old, new, old again; then a new one that cannot start. `between`: seconds of load between the
    steps. `code` may be a checkout of an older commit, as the old version."""
    deployment = Deployment(stage, code)
    serving = deployment.start(OLD)
    for release in serving:
        release.wait_until_ready()
    with Instances(serving) as instances, load_on(instances, stage.key(), clients) as load:
        time.sleep(between)
        forward = deployment.replace(instances, NEW)
        time.sleep(between)
        back = deployment.replace(instances, OLD)
        time.sleep(between)
    yield _row(
        f"{INSTANCES} instances replaced by the next version, and back",
        load,
        clients,
        f"forward: {forward}; back: {back}",
    )
    serving = instances.proxies
    with Instances(serving) as instances, load_on(instances, stage.key(), clients) as load:
        began = time.monotonic()
        broken = deployment.start(NEW, {"MLFLOW_READ_TIMEOUT": "soon"})
        eventually(lambda: not any(one.is_running() for one in broken), "their end")
        known = time.monotonic() - began
        statuses = {one.exit_status() for one in broken}
        time.sleep(between)
    yield _row(
        f"{INSTANCES} instances of a version with a bad setting start beside those that serve",
        load,
        clients,
        f"they end after {known:.1f} s with status {statuses}; {versions(serving)} serve on",
        is_as_planned=statuses == {1} and versions(serving) == {OLD},
    )


def _row(fault: str, load: Load, clients: int, more: str, is_as_planned: bool = True) -> Row:
    times = [seen.seconds for seen in load.seen]
    failed = sum(status != 200 for status in load.statuses)
    return Row(
        "rollback",
        fault,
        f"{clients} clients, half on kept connections, half POSTs: {len(times):,} requests",
        f"{counted(load.statuses)}; failed {failed}; p99 {p99_ms(times)} ms; {more}",
        None,
        facts={
            "no request failed": failed == 0,
            "there was load": len(times) > 0,
            "the versions are those that were planned": is_as_planned,
        },
        numbers={"requests": len(times), "failed": failed, "p99_ms": p99_ms(times)},
    )
