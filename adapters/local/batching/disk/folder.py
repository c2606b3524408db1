"""A folder of named blobs: of bounded size, shared by processes, and never trusted.

It is a cache. Whatever goes wrong with it is logged, and then it is as if the blob were not there.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import struct
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

__all__ = ["MOST_BYTES", "Folder"]

_log = logging.getLogger("router.local")

Data: TypeAlias = bytes | memoryview

#: Bytes of all blobs together, unless told otherwise.
MOST_BYTES = 4 << 30
#: When there are too many, so much of the limit is left; and after so much was written it is looked again,
#: since other processes write, too.
_LEFT, _LOOK = 0.9, 1 / 64
#: Bytes of the disk that are left to others.
_SPARE = 256 << 20
#: Seconds after which what somebody began to write is not finished any more.
_ABANDONED = 3600.0
#: Seconds without another try after the disk refused.
_PAUSE = 60.0

_SUFFIX, _PARTIAL = ".state", ".partial"
_OURS = re.compile(r"[0-9a-f]{32,64}(\.state|\.[0-9a-f]{16}\.partial)")
_HEADER = struct.Struct("<8sQI")  # magic, bytes that follow, their CRC-32
_MAGIC = b"RTRSTATE"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Folder:
    """Blobs by name; the names are hexadecimal digests of 32 to 64 digits. Any thread may use it.

    Args:
        path: Made, for this user alone, if it is not there. Files in it that are not ours are left alone.
        limit: The most bytes that all blobs together take, about; the least recently used go first.
        spare: Bytes of the disk that stay free.
    """

    def __init__(self, path: Path, *, limit: int = MOST_BYTES, spare: int = _SPARE) -> None:
        self._path = path
        self._limit = limit
        self._spare = spare
        self._unseen: float = limit  # bytes written since all were counted; at first nobody knows
        self._resume = 0.0
        self._complained: set[str] = set()

    def prepare(self) -> None:
        """Makes the folder if it is not there.

        Raises:
            OSError: if there can be none, or nobody may write there.
        """
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(self._path, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._path))

    def has(self, name: str, age: int = 0) -> bool:
        """Whether a blob is there. If so, it was used just now, `age` seconds ago."""
        try:
            self._use(self._file(name), age)
        except OSError:
            return False
        return True

    def read(self, name: str) -> memoryview | None:
        """A blob; None if it is not there or damaged, and then it is removed."""
        file = self._file(name)
        try:
            descriptor = os.open(file, os.O_RDONLY | _NO_FOLLOW)
        except OSError:
            return None
        try:
            with open(descriptor, "rb", buffering=0) as opened:  # noqa: PTH123 - a descriptor has no path
                if not _is_own(descriptor):
                    self._complain("foreign", f"{file} belongs to another user and is not read")
                    return None
                data = opened.read()
        except OSError as error:
            self._complain("read", f"{file} cannot be read ({error.strerror or error})")
            return None
        body = memoryview(data)[_HEADER.size :]
        if len(data) >= _HEADER.size and _HEADER.unpack_from(data) == (_MAGIC, len(body), zlib.crc32(body)):
            return body
        self.discard(name, "is damaged")
        return None

    def discard(self, name: str, why: str) -> None:
        """Removes a blob that is of no use, and says so."""
        _log.warning("the saved session state %s %s; it is removed and computed again", self._file(name), why)
        with suppress(OSError):
            self._file(name).unlink()

    def write(self, name: str, parts: Sequence[Data], age: int = 0) -> bool:
        """Keeps a blob, as if last used `age` seconds ago.

        Returns:
            Whether it is there now.
        """
        size, checksum = _HEADER.size + sum(map(len, parts)), 0
        if time.monotonic() < self._resume or size > self._limit:
            return False
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        header = _HEADER.pack(_MAGIC, size - _HEADER.size, checksum)
        try:
            self._make_room(size)
            self._put(name, [header, *parts], age)
        except OSError as error:
            self._resume = time.monotonic() + _PAUSE
            text = f"session states cannot be saved in {self._path} ({error.strerror or error})"
            self._complain(f"write {error.errno}", text)
            return False
        self._unseen += size
        return True

    def _put(self, name: str, parts: Sequence[Data], age: int) -> None:
        partial = self._path / f"{name}.{secrets.token_hex(8)}{_PARTIAL}"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
        try:
            with open(descriptor, "wb", buffering=0) as opened:  # noqa: PTH123 - a descriptor has no path
                for part in parts:
                    rest = memoryview(part)
                    while rest:
                        rest = rest[opened.write(rest) :]
            self._use(partial, age)
            partial.replace(self._file(name))
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise

    def _file(self, name: str) -> Path:
        return self._path / f"{name}{_SUFFIX}"

    def _use(self, file: Path, age: int) -> None:
        moment = time.time_ns() - age * 1_000_000_000
        os.utime(file, ns=(moment, moment), follow_symlinks=os.utime not in os.supports_follow_symlinks)

    def _make_room(self, size: int) -> None:
        """Removes what was not used for longest, if that is needed for one more.

        Raises:
            OSError: if there is no room on the disk, or nobody may write there.
        """
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._unseen + size > self._limit * _LOOK:
            self._tidy(size)
            self._unseen = 0
        if _free(self._path) < size + self._spare:
            raise OSError(errno.ENOSPC, "the disk is full")

    def _tidy(self, size: int) -> None:
        found, total = [], size
        with os.scandir(self._path) as entries:
            for entry in entries:
                if not _OURS.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                    continue
                with suppress(OSError):  # another process removed it
                    stat = entry.stat(follow_symlinks=False)
                    abandoned = entry.name.endswith(_PARTIAL) and time.time() - stat.st_mtime > _ABANDONED
                    found.append((0 if abandoned else stat.st_mtime_ns, stat.st_size, entry.path))
                    total += stat.st_size
        most = self._limit if total <= self._limit else self._limit * _LEFT
        for moment, length, path in sorted(found):
            if total <= most and moment:
                break
            with suppress(OSError):
                Path(path).unlink()
            total -= length

    def _complain(self, kind: str, text: str) -> None:
        """Once of each kind: what is wrong with a disk is wrong with each blob."""
        if kind not in self._complained:
            self._complained.add(kind)
            _log.warning("%s; it goes on without", text)


def _is_own(descriptor: int) -> bool:
    return not hasattr(os, "geteuid") or os.fstat(descriptor).st_uid == os.geteuid()


def _free(path: Path) -> int:
    import shutil

    return shutil.disk_usage(path).free
