"""With the ACL of docs/deployment.md all works; each right that is missing is named."""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.health import diagnosis
from app.state.redis_link import RedisLink, RedisUnavailable, Trouble
from app.state.redis_rights import explain
from app.state.windows import count_as_the_limiter
from devstack.ports import HOST
from devstack.redis import find_server
from tests.docs.pages import ROOT
from tests.drills.redis_topologies import Cluster, Node, Sentinels, Way, running, tls_server
from tests.fault_proxy import FaultProxy

PAGE = (ROOT / "docs/deployment.md").read_text("utf-8").replace("\\|", "|")
(ACL,) = re.findall(r"ACL SETUSER hokusai on >PASSWORD (.+?)\n```", PAGE, re.DOTALL)
RULE = ACL.split()
GRANTS = [word for word in RULE if word[0] in "~&+"]


@pytest.fixture(scope="module", params=["the usual server", "Debian's"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """Valkey, and Redis 7 where it is installed: they word their refusals differently."""
    folder = tmp_path_factory.mktemp("server")
    program = find_server() if request.param == "the usual server" else tls_server(folder / "bin")
    if program is None:
        pytest.skip("no other Redis here; Debian's package redis-tools has one")
    node = Node(folder / "redis", way=Way(program=program))
    with running(node):
        yield node


def set_user(node: Node, rule: list[str]) -> None:
    node.ask("ACL", "SETUSER", "hokusai", "reset", "on", ">secret", *rule)


@pytest.fixture
def look(server: Node) -> Iterator[Callable[[list[str], int], Trouble | None]]:
    """What is found wrong for a user with this rule, in this database."""
    links: list[RedisLink] = []

    def find(rule: list[str], database: int = 0) -> Trouble | None:
        set_user(server, rule)
        url = f"redis://hokusai:secret@{HOST}:{server.port}/{database}"
        links.append(RedisLink(url, 5, 1))
        links[-1].exercise = count_as_the_limiter
        return links[-1].trouble()

    yield find
    for link in links:
        link.client.close()


Look = Callable[..., Trouble | None]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "cluster")
    with made.running():
        yield made


def test_with_all_of_it_nothing_is_missing_or_refused(server: Node, look: Look) -> None:
    server.ask("ACL", "LOG", "RESET")
    assert look(RULE) is None
    refused = {entry["object"] for entry in server.client.acl_log()}
    assert refused <= {"client|setinfo"}, "which the page says"


@pytest.mark.parametrize("grant", GRANTS)
def test_each_right_that_is_missing_is_named_with_the_rule_that_grants_it(
    look: Look, grant: str
) -> None:
    trouble = look([word for word in RULE if word != grant])
    assert trouble is not None
    assert (trouble.word, trouble.is_partial) == ("permission", True)
    rules = [lack.kind + lack.right for lack in trouble.lacks]
    covering = grant.rstrip("*").rstrip(":")
    assert rules
    assert all(rule.startswith(covering) for rule in rules)
    assert explain(trouble.lacks).count("Until then") == 1


def test_what_is_granted_by_what_is_said_is_enough(look: Look) -> None:
    """From a user without any right, by what the complaint says, to one without complaint."""
    rule = ["resetkeys", "resetchannels", "-@all"]
    for _ in range(5):
        trouble = look(rule)
        if trouble is None:
            return
        rule += [lack.kind + lack.right for lack in trouble.lacks]
    pytest.fail(f"still missing: {trouble}")


def test_redis_sevens_new_user_may_do_all_but_hear_and_announce(look: Look) -> None:
    trouble = look(["~*", "+@all", "resetchannels"])
    assert trouble is not None
    assert {lack.right for lack in trouble.lacks} == {"hokusai:auth:revoked"}
    said = explain(trouble.lacks)
    assert "may not publish to hokusai:auth:revoked, subscribe to hokusai:auth:revoked" in said
    assert "Add to its ACL, on each node: &hokusai:auth:revoked." in said


class OwnWords(FaultProxy):
    """In front of a Redis: it says in its own words that it does not know a command."""

    def _before_the_cut(self, link: Any, side: str, data: bytes) -> bytes:
        return re.sub(rb"-ERR unknown command .+?\r\n", b"-ERR not for your account\r\n", data)


@pytest.mark.parametrize(
    "command", ["getex", "pttl", "rename", "evalsha", "script", "publish", "subscribe", "ping"]
)
def test_a_command_that_is_refused_in_other_words_is_named(tmp_path: Path, command: str) -> None:
    node = Node(tmp_path, "--rename-command", command, f"{command}-1")
    with running(node), OwnWords(node.port) as way:
        link = RedisLink(f"redis://{way.address}", 5, 1)
        link.exercise = count_as_the_limiter
        trouble = link.trouble()
        link.client.close()
    assert trouble is not None
    assert (trouble.word, trouble.is_partial) == ("permission", True)
    assert {lack.right.partition("|")[0] for lack in trouble.lacks} <= {command, "subscribe"}
    assert "it gets an error for" in explain(trouble.lacks)
    assert str(trouble.error) == "not for your account"


def test_another_database_needs_select(look: Look) -> None:
    trouble = look(RULE, database=1)
    assert trouble is not None
    assert {lack.right for lack in trouble.lacks} == {"select"}
    assert not trouble.is_partial
    assert look([*RULE, "+select"], database=1) is None


def test_a_cluster_needs_two_more(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    url = Way(password="secret").url("redis+cluster", [n.port for n in cluster.nodes])
    rule = list(RULE)
    with cluster.running():
        for missing in ("cluster|slots", "command", None):
            for node in cluster.nodes:
                set_user(node, rule)
            link = RedisLink(url.replace("//:", "//hokusai:"), 5, 1)
            link.exercise = count_as_the_limiter
            trouble = link.trouble()
            link.client.close()
            assert (trouble and trouble.lacks[0].right) == missing
            assert trouble is None or "browser sessions get 503" in explain(trouble.lacks)
            assert f"`+{missing}" in PAGE or f" +{missing}`" in PAGE or missing is None
            rule.append(f"+{missing}")


@pytest.mark.parametrize("grant", ["+pttl", "+getex", "+ping", "~LIMITS:*", "~hokusai:session:*"])
def test_what_one_node_of_a_cluster_refuses_is_named(cluster: Cluster, grant: str) -> None:
    """Each node has users of its own: one that was added later may lack them."""
    rule = [*RULE, "+cluster|slots", "+command"]
    url = Way(password="secret").url("redis+cluster", [n.port for n in cluster.nodes])
    unnamed = []
    for lacking in cluster.nodes:
        for node in cluster.nodes:
            set_user(node, [word for word in rule if node is not lacking or word != grant])
        link = RedisLink(url.replace("//:", "//hokusai:"), 5, 1)
        link.exercise = count_as_the_limiter
        trouble = link.trouble()
        link.client.close()
        if trouble is None:
            unnamed.append(lacking)
            continue
        assert trouble.is_partial
        assert all(lack.right.startswith(grant[1:].rstrip("*:")) for lack in trouble.lacks)
    # A right of listeners is needed at the one node where redis-py subscribes.
    assert len(unnamed) == (2 if grant == "+ping" else 0)


def test_a_cluster_is_examined_while_the_process_ends(cluster: Cluster) -> None:
    """As a command's thread may do when the command is done: nothing fails or is logged."""
    script = (
        "import atexit; from app.state.redis_link import RedisLink; "
        f"link = RedisLink({cluster.url!r}, 5, 1); atexit.register(lambda: print(link.trouble()))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_one_node_of_a_cluster_that_is_full_leaves_the_others_in_use(cluster: Cluster) -> None:
    for full in cluster.nodes:
        full.ask("CONFIG", "SET", "maxmemory", 1)
        link = RedisLink(cluster.url, 5, 1)
        link.exercise = count_as_the_limiter
        trouble = link.trouble()
        assert trouble is not None
        assert (trouble.word, trouble.is_partial) == ("full", True)
        done = Counter(_is_written(link, f"name-{number}") for number in range(60))
        link.client.close()
        full.ask("CONFIG", "SET", "maxmemory", 0)
        assert done[True] > 30
        assert done[False] > 10


def _is_written(link: RedisLink, name: str) -> bool:
    """Time passes in between, for the thread that looks what is wrong."""
    time.sleep(0.01)
    try:
        link.call(lambda: link.client.set(name, b"", px=1000))
    except RedisUnavailable:
        return False
    return True


def test_a_user_of_sentinels_needs_one(tmp_path: Path) -> None:
    sentinels = Sentinels(tmp_path)
    url = f"{sentinels.url}?sentinel_username=hokusai&sentinel_password=secret"
    assert "`+sentinel|masters`" in PAGE
    with sentinels.running():
        for grant, word in (("+ping", "sentinel permission"), ("+sentinel|masters", None)):
            for sentinel in sentinels.sentinels:
                sentinel.client.execute_command(
                    "ACL", "SETUSER", "hokusai", "reset", "on", ">secret", grant
                )
            link = RedisLink(url, 5, 1)
            trouble = link.trouble()
            link.client.close()
            assert (trouble and trouble.word) == word
            if trouble is not None:
                found = diagnosis.redis_trouble(diagnosis.redis_at(url), trouble)
                assert found.message.startswith("The Sentinels do not let this user ask")
