"""`serve`: its end, its surroundings, its log."""

import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from devstack.auth_service.keys import Grant, KeyStore
from tests.devstack.auth_service.running import WAIT_LIMIT, Service


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_though_a_connection_is_kept(
    tmp_path: Path, number: signal.Signals
) -> None:
    service = Service(tmp_path)
    service.ask("hk_test_unknown")  # the session keeps its connection open
    assert service.stop(number) == 0
    assert service.is_gone()
    assert "SIGKILL" not in service.log.read_text()  # it ended by itself


def test_settings_of_the_proxys_gunicorn_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("raise SystemExit('the configuration of another')")
    meant_for_another = {"WEB_CONCURRENCY": "3", "GUNICORN_CMD_ARGS": "--workers 3"}
    service = Service(tmp_path, meant_for_another)
    try:
        assert service.ask("hk_test_unknown").status_code == 401
    finally:
        service.stop()
    assert service.is_gone()
    assert service.log.read_text().count("Booting worker") == 1


def test_the_log_names_key_ids_and_never_keys(service: Service, keys: KeyStore) -> None:
    valid, key = keys.create(Grant("ann"), test=True)
    revoked, revoked_key = keys.create(Grant("ann"), test=True)
    keys.revoke(revoked_key.key_id)
    for secret in (valid, revoked, "hk_test_" + "9" * 43):
        service.ask(secret)
        send_malformed(service, f"Authorization Bearer {secret}")
    log = service.log.read_text()
    assert f"valid key_id={key.key_id} service='platform'" in log
    assert f"refused: revoked key_id={revoked_key.key_id}" in log
    assert "hk_test_[redacted]" in log  # gunicorn quotes a header line without a colon
    assert not any(text in log for text in (valid[8:], revoked[8:], "9" * 43))


def send_malformed(service: Service, header: str) -> None:
    """Send a request that gunicorn itself refuses."""
    address = urlsplit(service.url)
    assert address.hostname is not None
    assert address.port is not None
    with socket.create_connection((address.hostname, address.port), WAIT_LIMIT) as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 400")
