"""The name server freezes: a look-up takes no longer than a connect may, known addresses stay."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from devstack.proxy import Proxy
from tests.drills.load import all_at_once, timed
from tests.drills.report import Row, counted
from tests.drills.stage import Stage
from tests.name_server import NameServer, why_not
from tests.upstreams import Upstream, eventually
from tests.wire import Response, bearer, call

TARGET = "/api/mlflow/api/2.0/mlflow/runs/get?run_id=1"

#: MLFLOW_CONNECT_TIMEOUT in the drill, and seconds that a request may take on a busy machine.
CONNECT, MOST = 2.0, 8.0


def drill(stage: Stage, together: int) -> Iterator[Row]:
    """`together` requests at once, each of which needs a new connection: at a proxy that has looked
    the names up before, then at one that never could."""
    if why := why_not():
        yield Row("frozen name server", "not run", "–", why, None, {})
        return
    with tempfile.TemporaryDirectory() as folder, Upstream() as fake:
        yield _known(stage, Path(folder), fake, together)
        yield _unknown(stage, Path(folder), fake, together)


def _known(stage: Stage, folder: Path, fake: Upstream, together: int) -> Row:
    names = {name: ["127.0.0.1"] for name in ("mlflow.test", "auth.test", "redis.test")}
    with NameServer(folder, names) as server:
        proxy = stage.start(
            server.proxies(),
            {
                "MLFLOW_SERVER_URL": named(fake.url, "mlflow.test"),
                "HOKUSAI_AUTH_SERVICE_URL": named(stage.auth_url, "auth.test"),
                "REDIS_URL": named(stage.redis_url, "redis.test"),
                "MLFLOW_KEEPALIVE": 0,
                "MLFLOW_CONNECT_TIMEOUT": CONNECT,
            },
        )
        key = stage.key()
        assert ask(proxy, key).status == 200
        server.frozen = True
        eventually(lambda: ask(proxy, key).status == 200 and remarks(proxy), "the first remark")
        seen = all_at_once(lambda _: timed(lambda: ask(proxy, key).status), together)
        checks = call(proxy.url, "GET", "/api/health/mlflow").json["checks"]
        server.frozen = False
        eventually(
            lambda: ask(proxy, key).status and len(remarks(proxy)) > 1, "the last remark", 60
        )
        stage.clear()
    statuses, longest = [one.status for one in seen], max(one.seconds for one in seen)
    return Row(
        "frozen name server",
        "the addresses are known",
        f"{together} requests at once, a new connection each",
        f"{counted(statuses)}; the longest {longest:.2f} s; health says "
        f"{checks['connectivity']['status']}",
        None,
        facts={
            "all are answered": set(statuses) == {200},
            "nobody waits longer than a connect": longest < MOST,
            "health names the look-ups": "lookups" in checks["connectivity"]["message"],
        },
        numbers={"longest_s": longest, "health": checks},
    )


def _unknown(stage: Stage, folder: Path, fake: Upstream, together: int) -> Row:
    with NameServer(folder, {"mlflow.test": ["127.0.0.1"]}) as server:
        server.frozen = True
        proxy = stage.start(
            server.proxies(),
            {
                "MLFLOW_SERVER_URL": named(fake.url, "mlflow.test"),
                "MLFLOW_CONNECT_TIMEOUT": CONNECT,
                "MLFLOW_RETRY_DEADLINE": 0,
                "CIRCUIT_FAIL_MAX": 1_000_000,
            },
        )
        key = stage.key()
        seen = all_at_once(lambda _: timed(lambda: ask(proxy, key).status), together)
        looked_up = len(server.asked)
        server.frozen = False
        healed = time.monotonic()
        eventually(lambda: ask(proxy, key).status == 200, "the recovery", 60)
        recovery = time.monotonic() - healed
        stage.clear()
    statuses, longest = [one.status for one in seen], max(one.seconds for one in seen)
    return Row(
        "frozen name server",
        "the address was never known",
        f"{together} requests at once (MLFLOW_CONNECT_TIMEOUT {CONNECT:g} s)",
        f"{counted(statuses)}; the longest {longest:.2f} s; {looked_up} questions to the name "
        "server",
        round(recovery, 1),
        facts={
            "all get 502": set(statuses) == {502},
            "nobody waits longer than a connect": longest < MOST,
            "requests share a look-up": looked_up < together,
        },
        numbers={"longest_s": longest, "questions": looked_up},
    )


def named(url: str, name: str) -> str:
    """The URL with a name in the place of its address."""
    return url.replace(urlsplit(url).hostname or "", name, 1)


def ask(proxy: Proxy, key: str) -> Response:
    """One ordinary request."""
    return call(proxy.url, "GET", TARGET, bearer(key))


def remarks(proxy: Proxy) -> list[str]:
    """What the log says of look-ups of MLflow's name."""
    lines = (line for line in proxy.log_lines() if line["logger"] == "hokusai.names")
    return [line["message"] for line in lines if "mlflow.test" in line["message"]]
