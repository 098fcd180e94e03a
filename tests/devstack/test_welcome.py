"""The API key that `make run` shows."""

from pathlib import Path

from devstack.auth_service.keys import KeyStore
from devstack.welcome import key_in


def test_the_first_key_is_kept_while_it_is_active(tmp_path: Path) -> None:
    database, path = tmp_path / "keys.db", tmp_path / "key"
    scopes = ("read", "write")
    first = key_in(path, database, scopes)
    assert key_in(path, database, scopes) == first
    store = KeyStore(database)
    key = store.find(first)
    assert key is not None
    assert (key.grant.scopes, key.grant.rate_limit_per_hour) == (scopes, None)
    store.revoke(key.key_id)
    assert key_in(path, database, scopes) != first
