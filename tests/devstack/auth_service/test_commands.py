"""The command line, run as processes."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from devstack.auth_service.keys import Grant, KeyStore
from tests.devstack.auth_service.running import PROGRAM, WAIT_LIMIT, environment

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_create_prints_the_key_once(run: Run, store: KeyStore) -> None:
    done = run("create", "--user", "ann", "--test")
    assert done.returncode == 0
    (first, secret), (*second, key_id) = (line.split() for line in done.stdout.splitlines())
    assert (first, second) == ("key", ["key", "id"])
    assert "not shown again" in done.stderr
    key = store.find(secret)
    assert key is not None
    assert key.key_id == key_id
    assert key.grant == Grant("ann")


def test_create_takes_all_that_a_key_may_have(run: Run, store: KeyStore) -> None:
    options = ["--user", "ann", "--name", "Ann Lee", "--email", "ann@example.org", "--admin"]
    options += ["--scopes", "read,model:write", "--limit", "none", "--expires", "2999-12-31"]
    options += ["--allow-ip", "203.0.113.0/24", "--allow-ip", "2001:db8::1", "--test", "--json"]
    done = run("create", *options)
    assert (done.returncode, done.stderr) == (0, "")
    created = json.loads(done.stdout)
    key = store.find(created.pop("key"))
    assert key is not None
    assert created.pop("created_at")
    assert created == {
        "key_id": key.key_id,
        "user_id": "ann",
        "name": "Ann Lee",
        "email": "ann@example.org",
        "scopes": ["read", "model:write"],
        "rate_limit_per_hour": None,
        "is_admin": True,
        "allowed_ips": ["203.0.113.0/24", "2001:db8::1/128"],
        "expires_at": "2999-12-31T23:59:59Z",
        "revoked_at": None,
        "state": "active",
    }


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--user", "ann lee", "visible ASCII"),
        ("--name", "Ann\x1b[2J", "printable"),
        ("--scopes", "read,,write", "separated by commas"),
        ("--limit", "0", "whole number from 1 on"),
        ("--expires", "2020-01-01", "in the past"),
        ("--expires", "soon", "2026-12-31"),
        ("--allow-ip", "203.0.113.7/24", "host bits set"),
    ],
)
def test_create_says_what_is_wrong(
    run: Run, database: Path, option: str, value: str, complaint: str
) -> None:
    done = run("create", "--user", "ann", option, value)
    assert done.returncode == 2
    assert f"Invalid value for '{option}'" in done.stderr
    assert complaint in done.stderr
    assert not database.exists()


def test_processes_that_create_at_once_all_succeed(database: Path, tmp_path: Path) -> None:
    command = [*PROGRAM, "create", "--test", "--json", "--user"]
    users = [f"user{number}" for number in range(4)]
    running = [
        subprocess.Popen(
            [*command, user], cwd=tmp_path, env=environment(database), stdout=subprocess.PIPE
        )
        for user in users
    ]
    created = [json.loads(process.communicate(timeout=WAIT_LIMIT)[0]) for process in running]
    store = KeyStore(database)
    found = [store.find(each["key"]) for each in created]
    assert [key.grant.user_id for key in found if key] == users
    assert len(store.list()) == len(users)


def test_list_is_a_table_without_keys(run: Run, store: KeyStore) -> None:
    secrets = [store.create(Grant("ann"), test=True)[0]]
    secrets += [store.create(Grant("bob", scopes=(), expires_at=1), test=True)[0]]
    secret, revoked = store.create(Grant("eve", is_admin=True, rate_limit_per_hour=None))
    store.revoke(revoked.key_id)
    done = run("list")
    heading, ann, bob, eve = done.stdout.splitlines()
    columns = "key id user scopes limit created expires state"
    assert " ".join(heading.split()) == columns
    assert ann.split()[1:4] == ["ann", "read,write", "1000/h"]
    assert ann.split()[-2:] == ["never", "active"]
    assert bob.split()[1:3] == ["bob", "none"]
    assert bob.endswith("1970-01-01 00:00Z  expired")
    assert eve.split()[1:4] == ["eve", "read,write,(admin)", "none"]
    assert eve.endswith("revoked")
    assert not any(each[8:] in done.stdout + done.stderr for each in [*secrets, secret])


def test_list_as_json_holds_no_key(run: Run, store: KeyStore) -> None:
    secret, key = store.create(Grant("ann"), test=True)
    done = run("list", "--json")
    (listed,) = json.loads(done.stdout)
    assert (listed["key_id"], listed["user_id"]) == (key.key_id, "ann")
    assert "key" not in listed
    assert secret[8:] not in done.stdout


def test_list_says_that_there_is_nothing(run: Run) -> None:
    assert run("list").stdout == "There is no key yet.\n"
    assert run("list", "--json").stdout == "[]\n"


def test_the_option_wins_over_the_environment(run: Run, database: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    assert run("create", "--user", "ann", "--database", str(other)).returncode == 0
    assert other.exists()
    assert not database.exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["create", "list", "revoke", "serve", "not for production"]),
        (["create"], ["--user", "--scopes", "--limit", "--admin", "--expires", "--allow-ip"]),
        (["create"], ["[default: 1000]", "--name", "--test", "--json", "AUTH_SERVICE_DATABASE"]),
        (["list"], ["--json", "--database"]),
        (["revoke"], ["KEY_ID", "--redis-url", "REDIS_URL"]),
        (["serve"], ["--bind", "AUTH_SERVICE_BIND", "/api/v1/keys/validate", "GET /health"]),
    ],
)
def test_help(run: Run, command: list[str], words: list[str]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert [word for word in words if word not in text] == []


def test_a_database_that_cannot_be_opened_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in ("list", "serve"):
        done = run(command, "--database", str(tmp_path / "file" / "keys.db"))
        assert done.returncode == 1
        assert done.stderr.startswith("Error: The key database cannot be used:")
        assert done.stderr.count("\n") == 1
