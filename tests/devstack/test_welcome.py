"""The API key that `make run` shows."""

from pathlib import Path

from devstack.auth_service.keys import KeyStore
from devstack.welcome import first_key


def test_the_first_key_is_kept_while_it_is_active(tmp_path: Path) -> None:
    database, path = tmp_path / "keys.db", tmp_path / "key"
    first = first_key(database, path)
    assert first_key(database, path) == first
    store = KeyStore(database)
    key = store.find(first)
    assert key is not None
    assert (key.grant.scopes, key.grant.rate_limit_per_hour) == (("read", "write"), None)
    store.revoke(key.key_id)
    assert first_key(database, path) != first
