"""Watch the spans of an OTLP body for tags of MLflow's own, such as a storage location.

MLflow makes a tag of the trace from an attribute `mlflow.traceTag.<tag>`; its SDK sends no tag that
begins with `mlflow.` so. The body is not parsed: in protobuf such a name stands as it is, and JSON
that could spell it otherwise is refused. The pieces of a long body are looked at as they pass.
"""

import re
import zlib
from collections.abc import Iterable, Iterator

from app.auth.locations import folded
from app.request.body import yield_to_hub
from app.request.errors import BadRequest, BodyTooLarge, Forbidden

#: The attribute, and the longest beginning of the tag that must be seen at once.
ATTRIBUTE, ENOUGH = b"mlflow.traceTag.", 32
_TAG = re.compile(re.escape(ATTRIBUTE) + rb"(?=(.{1,%d}))" % ENOUGH, re.DOTALL)

#: An ASCII letter, digit or dot, written as an escape. After an escaped backslash, it is text.
_ESCAPED = re.compile(
    rb"(?<!\\)(?:\\\\)*+\\u00(?:2e|3[0-9]|[46][1-9a-f]|[57][0-9a])", re.IGNORECASE
)

#: Bytes that a compressed body may have when it is unpacked, and of one step.
MOST, STEP = 64 * 1024 * 1024, 256 * 1024

#: zlib's formats by Content-Encoding. MLflow reads deflate with and without its header.
FORMATS = {"gzip": (31,), "deflate": (15, -15)}


def watched(pieces: Iterable[bytes], content_type: str, encoding: str) -> Iterator[bytes]:
    """The same pieces, each looked at first. Raises Forbidden, BadRequest, BodyTooLarge."""
    is_json = content_type.partition(";")[0].strip().lower() == "application/json"
    formats = FORMATS.get(encoding.strip().lower(), ())
    unpackers = [_Unpacker(_Looker(is_json), each) for each in formats]
    plain = _Looker(is_json)
    for piece in pieces:
        if not formats:
            plain(piece)
        elif not any([unpacker.take(piece) for unpacker in unpackers]):
            raise BadRequest(f"The body is not {encoding}, as its Content-Encoding says.")
        yield piece


class _Looker:
    """Looks at a text piece by piece; keeps the end of one for the next, from an even number of
    backslashes on."""

    def __init__(self, is_json: bool) -> None:
        self._is_json = is_json
        self._end = b""

    def __call__(self, piece: bytes) -> None:
        text = self._end + piece
        before = text[: -len(ATTRIBUTE) - ENOUGH]
        is_odd = (len(before) - len(before.rstrip(b"\\"))) % 2
        self._end = text[len(before) - is_odd :]
        if ATTRIBUTE in text and any(map(_is_mlflows, {*_TAG.findall(text)})):
            raise Forbidden(
                "A span has an attribute mlflow.traceTag.mlflow.…, which would set a tag of "
                "MLflow's own, such as a storage location. Nothing was stored; leave it out."
            )
        if self._is_json and (b"\0" in text or (b"\\u00" in text and _ESCAPED.search(text))):
            raise BadRequest(
                "The spans' JSON must be UTF-8, with ASCII letters and digits written as they are, "
                "not as escapes such as \\u0061."
            )


def _is_mlflows(tag: bytes) -> bool:
    return folded(tag.decode("utf-8", "ignore")).startswith("mlflow.")


class _Unpacker:
    """Unpacks a body piece by piece for a look at it."""

    def __init__(self, look: _Looker, wbits: int) -> None:
        self._look = look
        self._wbits = wbits
        self._member = zlib.decompressobj(wbits)
        self._size = 0
        self._is_well = True

    def take(self, piece: bytes) -> bool:
        """Whether all so far could be unpacked."""
        try:
            if self._is_well:
                self._unpack(piece)
        except zlib.error:
            self._is_well = False
        return self._is_well

    def _unpack(self, packed: bytes) -> None:
        text = b""
        while packed or len(text) == STEP:  # zlib may hold back some after a full step
            if self._member.eof:  # gzip may have a next member, after zeros
                if not (packed := packed.lstrip(b"\0")):
                    return
                self._member = zlib.decompressobj(self._wbits)
            text = self._member.decompress(packed, STEP)
            self._size += len(text)
            if self._size > MOST:
                raise BodyTooLarge(f"The spans have more than {MOST} bytes when unpacked.")
            self._look(text)
            yield_to_hub()  # a small body may take seconds
            packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
