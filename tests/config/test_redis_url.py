"""The grammar of REDIS_URL: what it says in every kind, and what is refused without showing it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.redis_url import SCHEMES, RedisUrl, parse
from config.running import PREPARED
from tests.drills.redis_topologies import make_certificates

HOST = ("cache", 6379)

GOOD: dict[str, dict[str, Any]] = {
    "redis://cache": {"kind": "redis", "hosts": (HOST,)},
    "redis://cache/": {"database": 0},
    "redis://:@cache": {"username": None, "password": None},
    "redis://cache:6380/3": {"hosts": (("cache", 6380),), "database": 3},
    "redis://cache?db=3": {"database": 3},
    "redis://[::1]": {"hosts": (("::1", 6379),)},
    "redis://[2001:DB8::1]:6380/0": {"hosts": (("2001:db8::1", 6380),)},
    "redis://ann:p%40ss%2Fw%23rd%3F%25@cache": {"username": "ann", "password": "p@ss/w#rd?%"},
    "redis://:a:b+c&d=@cache": {"username": None, "password": "a:b+c&d="},
    "redis://cache?username=ann&password=a%26b+c": {"username": "ann", "password": "a&b+c"},
    "redis://cache?protocol=2": {"protocol": 2},
    "rediss://:secret@cache:6380/1": {"kind": "redis", "is_tls": True, "password": "secret"},
    "rediss://cache?ssl_cert_reqs=none": {
        "tls": {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    },
    "rediss://cache?ssl_check_hostname=false": {"tls": {"ssl_check_hostname": False}},
    "unix:///run/redis.sock": {"kind": "unix", "path": "/run/redis.sock"},
    "unix://ann:secret@/run/a%20b.sock?db=2": {
        "path": "/run/a b.sock",
        "database": 2,
        "username": "ann",
        "password": "secret",
    },
    "redis+sentinel://a,b:1,[::1],[::2]:2/mine": {
        "kind": "sentinel",
        "hosts": (("a", 26379), ("b", 1), ("::1", 26379), ("::2", 2)),
        "service": "mine",
        "database": 0,
        "sentinel_password": None,
    },
    "redis+sentinel://:p@a/mine/4?sentinel_username=s&sentinel_password=q%23": {
        "service": "mine",
        "database": 4,
        "password": "p",
        "sentinel_username": "s",
        "sentinel_password": "q#",
    },
    "rediss+sentinel://a/mine": {"kind": "sentinel", "is_tls": True},
    "redis+cluster://ann:p@a:1,[::1]:2": {
        "kind": "cluster",
        "hosts": (("a", 1), ("::1", 2)),
        "username": "ann",
    },
    "redis+cluster://a/0": {"hosts": (("a", 6379),), "database": 0},
    "rediss+cluster://a": {"kind": "cluster", "is_tls": True},
    "memory://": {"kind": "memory"},
}


@pytest.mark.parametrize("url", GOOD)
def test_what_it_says(url: str) -> None:
    parsed = parse(url)
    assert {name: getattr(parsed, name) for name in GOOD[url]} == GOOD[url]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, two certificates with their keys, a locked key, and what is none of these."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    folder = make_certificates(tmp_path_factory.mktemp("tls"))
    locked = ("rsa", "-aes128", "-passout", "pass:s3é&", "-in", "client.key", "-out", "locked.key")
    subprocess.run(["openssl", *locked], cwd=folder, capture_output=True, check=True)
    (folder / "junk").write_text("no certificate")
    return folder


CERTIFICATE = "ssl_certfile={}/client.crt"


def test_files_of_tls(files: Path) -> None:
    parsed = parse(f"rediss+cluster://a?ssl_ca_certs={files}/ca.crt&ssl_cert_reqs=optional")
    assert parsed.tls == {"ssl_ca_certs": f"{files}/ca.crt", "ssl_cert_reqs": "optional"}
    own = CERTIFICATE.format(files)
    assert parse(f"rediss://a?{own}&ssl_keyfile={files}/client.key").tls
    assert parse(f"rediss://a?{own}&ssl_keyfile={files}/locked.key&ssl_password=s3%C3%A9%26").tls


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("ssl_ca_certs={}/junk", "not a file of certificates"),
        ("ssl_ca_certs={}", "not a file of certificates"),
        ("ssl_keyfile={}/client.key", "ssl_keyfile without ssl_certfile"),
        (CERTIFICATE, "ssl_certfile that cannot be used"),
        (CERTIFICATE + "&ssl_keyfile={}/server.key", "ssl_certfile that cannot be used"),
        (CERTIFICATE + "&ssl_keyfile={}/locked.key", "ssl_certfile that cannot be used"),
        (
            CERTIFICATE + "&ssl_keyfile={}/locked.key&ssl_password=s3",
            "does ssl_password decrypt the key",
        ),
    ],
)
def test_files_of_tls_that_cannot_be_used_are_refused_at_the_start(
    files: Path, options: str, complaint: str
) -> None:
    """Each connection would fail by them; the locked key would ask on the terminal."""
    with pytest.raises(ValueError, match=complaint) as refused:
        parse(f"rediss://cache?{options.replace('{}', str(files))}")
    assert "s3" not in str(refused.value)


#: Each with a part of the complaint. `s3` is where a password is, or may be.
BAD = {
    "redis": "must begin with one of redis://, rediss://, unix://",
    "http://cache": "must begin with one of",
    "redis+sentinels://a/mine": "must begin with one of",
    "redis://": "must name each host",
    "redis:///0": "must name each host",
    "redis://:s3@": "must name each host",
    "redis://:s3#x@cache/0": "has a #",
    "redis://:s3/x@cache/0": "an @ after the hosts",
    "redis://:s3?x@cache/0": "an @ after the hosts",
    "redis://:s3@x@cache/0": "more than one @",
    "redis://:s3%x@cache/0": "a % without two hexadecimal digits",
    "redis://:s3%E9@cache/0": "not UTF-8",
    "redis://cache?password=s3%E9": "not UTF-8",
    "redis+sentinel://a/s3%E9": "not UTF-8",
    "redis://:s3 x@cache/0": "printable ASCII",
    "redis://:s3ü@cache/0": "printable ASCII",
    "redis+sentinel://:s3/x@a/mine": "an @ after the hosts",
    "redis+cluster://:s3#x@a": "has a #",
    "redis://cache?password=s3&x@cache": "an @ after the hosts",
    "redis://cache?password=s3&x": "an unknown option (number 2 after the ?)",
    "redis://cache?password=s3?x": "more than one ?",
    "redis://s3@cache": "a user but no password",
    "redis://ann:@cache": "a username without a password",
    "redis://ann:s3@cache?password=s3": "sets password twice",
    "redis://cache:0": "not a number from 1 to 65535",
    "redis://cache:65536/0": "not a number from 1 to 65535",
    "redis://cache:": "must name each host",
    "redis://cache:port": "must name each host",
    "redis://::1:6379": "an IPv6 address in brackets",
    "redis://[cache]:6379": "not an IPv6 address",
    "redis://a,b": "use redis+sentinel:// or redis+cluster://",
    "redis://cache/zero": "a database that is not a number",
    "redis://cache/0/1": "too many parts",
    "redis://cache/1?db=1": "sets database twice",
    "redis://cache?socket_timeout=5": "an unknown option (number 1 after the ?)",
    "redis://cache?ssl=true": "for TLS use rediss instead of redis",
    "redis://cache?ssl_cert_reqs=none": "without TLS",
    "redis://cache?sentinel_password=s3": "without Sentinels",
    "redis://cache?protocol=4": "must be one of 2, 3",
    "redis://cache?db": "no value for its option db",
    "rediss://cache?ssl_cert_reqs=maybe": "must be one of required, optional, none",
    "rediss://cache?ssl_ca_certs=/no/such/file": "a readable file or folder",
    "unix://run/redis.sock": "absolute path",
    "unix://": "absolute path",
    "redis+sentinel://a:1,b:2": "must name the service",
    "redis+sentinel://a:1/": "must name the service",
    "redis+sentinel://a:1,:2/mine": "must name each host",
    "redis+sentinel://a:1,/mine": "must name each host",
    "redis+sentinel://a:1/mine/zero": "a database that is not a number",
    "redis+sentinel://a/mine?sentinel_username=s": "without a sentinel_password",
    "redis+cluster://u:s3@a:1,b:port": "must name each host",
    "redis+cluster://a/1": "a cluster has only database 0",
    "redis+cluster://a?db=1": "a cluster has only database 0",
    "memory://1": "nothing after memory://",
}


@pytest.mark.parametrize("url", BAD)
def test_what_is_refused_and_that_nothing_of_it_is_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as refused:
        parse(url)
    assert BAD[url] in str(refused.value)
    assert "s3" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_no_secret_is_in_its_repr() -> None:
    url = "redis+sentinel://s3u:s3p@a/m?sentinel_username=s3v&sentinel_password=s3w"
    assert "s3" not in repr(parse(url))


def test_each_scheme_is_a_kind() -> None:
    ends = {"unix": "/run/x", "memory": ""}
    for scheme in SCHEMES:
        parsed = parse(f"{scheme}://{ends.get(scheme, 'a/mine' if 'sentinel' in scheme else 'a')}")
        assert isinstance(parsed, RedisUrl)
        assert parsed.is_tls == scheme.startswith("rediss")
        assert parsed.kind in scheme


@pytest.mark.parametrize("process", [os.getpid, os.getppid], ids=["its master", "its worker"])
def test_a_file_that_vanishes_ends_no_running_instance(
    monkeypatch: pytest.MonkeyPatch, process: Callable[[], int]
) -> None:
    """A reload, and each new worker, reads the settings again."""
    url = "rediss://cache?ssl_ca_certs=/no/such/file"
    with pytest.raises(ValueError, match="readable file or folder"):
        parse(url)
    monkeypatch.setenv(PREPARED, str(process()))
    assert parse(url).tls == {"ssl_ca_certs": "/no/such/file"}
