"""Spans that would set a tag of MLflow's own, in every packing that MLflow reads."""

import gzip
import zlib
from collections.abc import Iterator

import pytest

from app.auth.otlp_tags import MOST, watched
from app.request.errors import BadRequest, BodyTooLarge, Forbidden, ProxyError

BAD = b"x" * 100 + b"mlflow.traceTag.mlflow.artifactLocation" + b"y" * 100
GOOD = b"\x00" * 100 + b"mlflow.traceTag.team\x12\x19mlflow.artifactLocation" + b"y" * 100
PROTOBUF, JSON = "application/x-protobuf", "application/json; charset=utf-8"


def raw_deflate(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(text) + packer.flush()


def with_header_checksum(text: bytes) -> bytes:
    """gzip with a wrong checksum of its header, which Python's gzip does not look at."""
    packed = gzip.compress(text)
    return packed[:3] + b"\x02" + packed[4:10] + b"\x00\x00" + packed[10:]


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def passes(body: bytes, size: int, content_type: str = PROTOBUF, encoding: str = "") -> bytes:
    return b"".join(watched(pieces(body, size), content_type, encoding))


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("", bytes),
        ("gzip", gzip.compress),
        ("GZIP", lambda text: gzip.compress(b"first") + b"\0\0" + gzip.compress(text) + b"\0"),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
    ],
)
def test_a_tag_of_mlflows_own(encoding: str, pack: "type[bytes]", size: int) -> None:
    good, bad = pack(GOOD), pack(BAD)
    assert passes(good, size, encoding=encoding) == good
    with pytest.raises(Forbidden, match="traceTag"):
        passes(bad, size, encoding=encoding)


@pytest.mark.parametrize(
    "body",
    [
        b"mlflow.traceTag.MLFLOW.artifactLocation",
        "mlflow.traceTag.mlflów.artifactLocation".encode(),
        b"mlflow.traceTag.x mlflow.traceTag.mlflow.artifactLocation",
        b"mlflow.traceTag.mlflow.",
    ],
)
def test_other_spellings(body: bytes) -> None:
    with pytest.raises(Forbidden):
        passes(body, 1000)


@pytest.mark.parametrize(
    ("body", "content_type", "encoding", "refusal"),
    [
        (b'{"key": "mlfl\\u006fw"}', JSON, "", BadRequest),
        ("{}".encode("utf-16"), JSON, "", BadRequest),
        (b"not packed", PROTOBUF, "gzip", BadRequest),
        (b"not packed", PROTOBUF, "deflate", BadRequest),
        (with_header_checksum(BAD), PROTOBUF, "gzip", BadRequest),
        (gzip.compress(b"\0" * (MOST + 1)), PROTOBUF, "gzip", BodyTooLarge),
    ],
)
def test_what_cannot_be_looked_at(
    body: bytes, content_type: str, encoding: str, refusal: type[ProxyError]
) -> None:
    with pytest.raises(refusal):
        passes(body, 1000, content_type, encoding)


def test_what_json_needs_to_escape_passes() -> None:
    body = '{"key": "a\\u0000\\u003c\\u0027\\u00e9 é"}'.encode()
    assert passes(body, 5, JSON) == body


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize("backslashes", [1, 2, 3, 48, 49, 50, 51, 99, 100])
def test_backslashes_before_an_escape(backslashes: int, size: int) -> None:
    """A text about escapes, such as code in a prompt, has them with a second backslash."""
    body = b'{"key": "a' + b"\\" * backslashes + b'u0041"}' + b" " * 100
    if backslashes % 2:
        with pytest.raises(BadRequest):
            passes(body, size, JSON)
    else:
        assert passes(body, size, JSON) == body
