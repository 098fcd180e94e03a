"""Compressed files are kept within a bound."""

import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask, Response, g

from app.browser.assets import STEP, Copies, Copy, _compressed_whole, _gzip
from app.observability.record import Record


def copy_of(size: int) -> Copy:
    return Copy(b"x" * size, (), '"1"')


def test_where_more_come_than_fit_all_are_forgotten() -> None:
    copies = Copies(limit=30)
    for name in "abc":
        copies.keep(name, copy_of(10))
    assert [*copies] == ["a", "b", "c"]
    copies.keep("d", copy_of(10))
    assert [*copies] == ["d"]


def test_a_new_copy_takes_the_place_of_the_old_one() -> None:
    copies = Copies(limit=30)
    for _ in range(10):
        copies.keep("a", copy_of(20))
    copies.keep("b", copy_of(10))
    assert copies.get("a") is not None
    assert copies.get("b") is not None


@pytest.mark.parametrize("sizes", [[1], [STEP], [STEP + 1, 0, 5], [7] * 100, []])
def test_the_pieces_come_out_whole(sizes: list[int]) -> None:
    pieces = [bytes([65 + number % 26]) * size for number, size in enumerate(sizes)]
    assert gzip.decompress(_gzip(pieces)) == b"".join(pieces)


def test_who_comes_meanwhile_waits_for_the_copy() -> None:
    """A page's 45 files cost a second of the processor's time, and after a restart many ask."""
    began, go_on, read = threading.Event(), threading.Event(), list[str]()
    copies, app = Copies(), Flask(__name__)

    def body(reader: str) -> Iterator[bytes]:
        read.append(reader)
        began.set()
        assert go_on.wait(10)
        yield b"abc" * STEP

    def get(reader: str) -> bytes:
        with app.test_request_context("/a.js"):
            g.record = Record("id", "GET", "/", "")
            answer = Response(body(reader), headers={"ETag": '"1"'})
            return _compressed_whole(answer, copies, "a.js").get_data()

    with ThreadPoolExecutor() as pool:
        first = pool.submit(get, "first")
        assert began.wait(10)
        others = [pool.submit(get, f"number {number}") for number in range(3)]
        go_on.set()
        assert {gzip.decompress(each.result()) for each in (first, *others)} == {b"abc" * STEP}
    assert read == ["first"]
