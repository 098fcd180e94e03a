"""Bodies put aside: bounded each, by key and in all; a full disk is a 503."""

import logging
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from app.request.errors import BodyTooLarge, NoRoomForBody
from app.upstream.buffered_bodies import IN_MEMORY, BufferedBodies


def test_a_body_comes_back_as_it_was_written() -> None:
    content = bytes(range(256)) * (IN_MEMORY // 128)
    with BufferedBodies(2 * IN_MEMORY, 10 * IN_MEMORY).new("key-1") as body:
        for begin in range(0, len(content), 10_000):
            body.write(content[begin : begin + 10_000])
        assert body.size == len(content)
        assert b"".join(body.pieces(1000)) == content


def test_one_body_has_a_limit() -> None:
    with BufferedBodies(10, 100).new("key-1") as body:
        body.write(b"x" * 10)
        with pytest.raises(BodyTooLarge, match=r"10 bytes .MAX_BUFFERED_BODY"):
            body.write(b"x")


def test_one_key_gets_a_quarter_and_all_together_the_total() -> None:
    bodies = BufferedBodies(10, 100)
    with ExitStack() as held:
        for key in ("key-1", "key-2", "key-3", "key-4"):
            first, second, third = (held.enter_context(bodies.new(key)) for _ in range(3))
            first.write(b"x" * 10)
            second.write(b"x" * 10)
            third.write(b"x" * 5)
            with pytest.raises(NoRoomForBody, match="your key's other"):
                third.write(b"x")
        last = held.enter_context(bodies.new("key-5"))
        with pytest.raises(NoRoomForBody, match="when other requests"):
            last.write(b"x")
        third.close()
        last.write(b"x" * 5)
        with pytest.raises(NoRoomForBody):
            last.write(b"x")


def test_a_body_that_was_refused_or_closed_twice_holds_nothing() -> None:
    bodies = BufferedBodies(10, 10)
    for _ in range(3):
        with bodies.new("key-1") as body:
            body.write(b"x" * 10)
            with bodies.new("key-2") as other, pytest.raises(NoRoomForBody):
                other.write(b"x")
            body.close()


@contextmanager
def no_files_over(size: int) -> Iterator[None]:
    """The kernel takes no byte of a file beyond this size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_503_which_the_log_tells_once(caplog: pytest.LogCaptureFixture) -> None:
    bodies = BufferedBodies(10 * IN_MEMORY, 100 * IN_MEMORY)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with bodies.new("key-1") as body:
                body.write(b"x" * IN_MEMORY)
                with no_files_over(IN_MEMORY), pytest.raises(NoRoomForBody) as refused:
                    body.write(b"x" * IN_MEMORY)
        assert int(str(refused.value.headers["Retry-After"])) >= 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert "TMPDIR" in line
    assert "File too large" in line
    with bodies.new("key-1") as body:
        body.write(b"x" * 10 * IN_MEMORY)


def test_so_is_a_temporary_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with BufferedBodies(10 * IN_MEMORY, 100 * IN_MEMORY).new("key-1") as body:
        with pytest.raises(NoRoomForBody):
            body.write(b"x" * (IN_MEMORY + 1))
        assert body.size


@pytest.mark.parametrize("read", [lambda body: list(body.pieces(10)), lambda body: body.close()])
def test_no_body_is_no_file(read: Callable[..., object]) -> None:
    with BufferedBodies(10, 10).new("key-1") as body:
        assert not read(body)
