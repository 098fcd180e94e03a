"""Compressed files are kept within a bound, the ones in use longest."""

import gzip
from collections.abc import Iterator

import pytest

from app.browser.assets import STEP, Copies, Copy, _gzip
from app.observability.record import Record
from app.request.errors import BrokenTransfer


def copy_of(size: int) -> Copy:
    return Copy(b"x" * size, (), '"1"')


def test_what_was_used_longest_ago_goes_first() -> None:
    copies = Copies(limit=30)
    for name in "abc":
        copies.put(name, copy_of(10))
    copies.get("a")
    copies.put("d", copy_of(10))
    assert [name for name in "abcd" if copies.get(name)] == ["a", "c", "d"]


def test_a_new_copy_takes_the_place_of_the_old_one() -> None:
    copies = Copies(limit=30)
    for _ in range(10):
        copies.put("a", copy_of(20))
    copies.put("b", copy_of(10))
    assert copies.get("a") is not None
    assert copies.get("b") is not None


def test_what_is_larger_than_all_room_is_not_kept() -> None:
    copies = Copies(limit=30)
    copies.put("a", copy_of(10))
    copies.put("b", copy_of(31))
    copies.put("c", copy_of(30))
    assert [name for name in "abc" if copies.get(name)] == ["c"]


@pytest.mark.parametrize("sizes", [[1], [STEP], [STEP + 1, 0, 5], [7] * 100, []])
def test_the_pieces_come_out_whole_and_are_kept_whole(sizes: list[int]) -> None:
    pieces = [bytes([65 + number % 26]) * size for number, size in enumerate(sizes)]
    kept: list[bytes] = []
    record = Record("id", "GET", "/", "")
    out = b"".join(_gzip(iter(pieces), record, kept.append))
    assert gzip.decompress(out) == b"".join(pieces)
    assert kept == [out]
    assert record.bytes_out == len(out)


def test_of_a_broken_transfer_nothing_is_kept() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a" * STEP
        raise BrokenTransfer("broke off")

    kept: list[bytes] = []
    with pytest.raises(BrokenTransfer):
        list(_gzip(broken(), Record("id", "GET", "/", ""), kept.append))
    assert kept == []


def test_who_hangs_up_leaves_nothing_half_kept() -> None:
    kept: list[bytes] = []
    stream = _gzip(iter([b"abc" * STEP] * 50), Record("id", "GET", "/", ""), kept.append)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert kept == []
