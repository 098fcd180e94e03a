"""A process's metric file in prometheus_client's format, but not mapped into memory.

The library's mapped files are sparse: on a full file system a write to a page without a block kills
the process (SIGBUS), and so does a truncated file. Here each change is one pwrite(2), which can at
worst fail. It takes about a microsecond.

The values stay in memory too. A failed write is repeated once there is space again, so a full file
system loses no count of a process that survives it.
"""

import errno
import logging
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

from app.observability import folders

log = logging.getLogger("hokusai.metrics")

#: Seconds between two log lines about the same problem.
LOG_INTERVAL = 60.0

_NUMBER, _VALUE = struct.Struct("i"), struct.Struct("dd")

#: Bytes before the first entry: the used length of the file, and padding.
HEAD = 8


def entry(key: str, value: float, timestamp: float) -> bytes:
    """Encode one value: length of the key, key padded to a multiple of 8, value, time."""
    name = key.encode()
    padding = b" " * (8 - (len(name) + 4) % 8)
    return _NUMBER.pack(len(name)) + name + padding + _VALUE.pack(value, timestamp)


def head(used: int) -> bytes:
    """Encode the head of a file with `used` bytes in use."""
    return _NUMBER.pack(used).ljust(HEAD, b"\0")


def whole(counts: Mapping[str, float]) -> bytes:
    """Encode a file with these values by key, without timestamps."""
    body = b"".join(entry(key, count, 0.0) for key, count in counts.items())
    return head(HEAD + len(body)) + body


def read(file: Path) -> dict[str, tuple[float, float]]:
    """Read value and timestamp by key. Raises OSError, or ValueError if the file is damaged."""
    from prometheus_client.mmap_dict import MmapedDict  # lazily: it imports much

    library: Any = MmapedDict
    try:
        rows = library.read_all_values_from_file(str(file))
        return {key: (value, timestamp) for key, value, timestamp, _ in rows}
    except (RuntimeError, struct.error, UnicodeDecodeError) as why:
        raise ValueError(f"{file.name} is damaged: {why}") from why


def write(file: int, data: bytes, position: int) -> None:
    """Write all of the data, or raise OSError: on a full file system a write can be partial."""
    if os.pwrite(file, data, position) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class MetricFile:
    """The interface of MmapedDict that prometheus_client.values uses. Raises no OSError."""

    #: The open files of this process.
    _open: ClassVar["WeakSet[MetricFile]"] = WeakSet()
    _logged: ClassVar[float] = -LOG_INTERVAL

    def __init__(self, filename: str) -> None:
        self._path = Path(filename)
        self._file: int | None = None
        self._values: dict[str, tuple[float, float]] = {}
        self._positions: dict[str, int] = {}
        self._used = HEAD
        #: Why the file lacks a value that is in memory; "" if it lacks none.
        self.trouble = ""
        try:
            self._values = read(self._path)  # from an earlier process with the same id
        except (OSError, ValueError):
            self._values = {}
        self._begin()
        MetricFile._open.add(self)

    @classmethod
    def troubles(cls) -> list[str]:
        """The problems of this process's files; empty if all values are written."""
        return sorted({file.trouble for file in cls._open if file.trouble})

    @classmethod
    def refresh_all(cls) -> list[str]:
        """Recreate missing files, and repeat failed writes. Returns the remaining problems."""
        for file in list(cls._open):
            file._refresh()
        return cls.troubles()

    def read_value(self, key: str) -> tuple[float, float]:
        """Read value and timestamp. A new key is added to the file with zeros."""
        if key not in self._values:
            self.write_value(key, 0.0, 0.0)
        return self._values[key]

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Store a value in memory and, if possible, in the file."""
        self._values[key] = value, timestamp
        if self._file is None:
            return
        try:
            position = self._positions.get(key)
            if position is None:
                self._append(key)
            else:
                write(self._file, _VALUE.pack(value, timestamp), position)
        except OSError as why:
            self._fail(why)

    def close(self) -> None:
        """Close the file; write nothing more."""
        MetricFile._open.discard(self)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _begin(self) -> None:
        """Open the file and write all values, the head last, so no scrape reads a partial file."""
        try:
            folders.make(self._path.parent.parent)
            folders.make(self._path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            file, before = os.open(self._path, flags, 0o600), self._file
        except OSError as why:
            self._fail(why)
            return
        self._file, self._positions = file, {}
        if before is not None:
            os.close(before)
        self._write_all()

    def _write_all(self) -> None:
        """Write all values. Entries keep their positions, so a reader never sees them move."""
        assert self._file is not None
        missing = [key for key in self._values if key not in self._positions]
        positions, body = {}, b""
        for key in (*self._positions, *missing):
            body += entry(key, *self._values[key])
            positions[key] = HEAD + len(body) - _VALUE.size
        try:
            write(self._file, body, HEAD)
            write(self._file, head(HEAD + len(body)), 0)
        except OSError as why:
            self._fail(why)
            return
        self._positions, self._used = positions, HEAD + len(body)
        if self.trouble:
            log.info("this worker's metrics can be written again; no count is lost")
        self.trouble = ""

    def _append(self, key: str) -> None:
        """Write a new entry, then the head that makes it valid."""
        assert self._file is not None
        data = entry(key, *self._values[key])
        write(self._file, data, self._used)
        write(self._file, head(self._used + len(data)), 0)
        self._used += len(data)
        self._positions[key] = self._used - _VALUE.size

    def _refresh(self) -> None:
        if self._file is None or not self._is_in_place():
            self._begin()
        elif self.trouble or not self._is_whole():
            self._write_all()

    def _is_in_place(self) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except OSError:
            return False

    def _is_whole(self) -> bool:
        """Whether the file is neither truncated nor overwritten."""
        assert self._file is not None
        cut = os.fstat(self._file).st_size < self._used
        return not cut and os.pread(self._file, HEAD, 0) == head(self._used)

    def _fail(self, why: OSError) -> None:
        """Log the problem, at most once per LOG_INTERVAL for all files of this process."""
        self.trouble = why.strerror or str(why)
        if time.monotonic() > MetricFile._logged + LOG_INTERVAL:
            MetricFile._logged = time.monotonic()
            log.error("this worker's metrics cannot be written; /metrics lacks them: %s", why)
