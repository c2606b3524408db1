"""Decompression in small pieces, so that a bomb is refused long before it has unfolded."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

__all__ = ["Inflater", "known_encoding"]

_PIECE = 64 * 1024
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_BARE_DEFLATE = -zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b"
_HEAD = 2


def known_encoding(header: str | None) -> bool | None:
    """Whether a `content-encoding` can be undone here; None if there is nothing to undo."""
    encoding = (header or "").strip().lower()
    if encoding in ("", "identity"):
        return None
    return encoding in ("gzip", "x-gzip", "deflate")


class Inflater:
    """Undoes gzip (of one or several members) and deflate (with or without zlib's frame)."""

    def __init__(self) -> None:
        self._engine: zlib._Decompress | None = None
        self._head = b""
        self._members = 0
        self._padding = False

    @property
    def complete(self) -> bool:
        """Whether the compressed data came to its end."""
        return self._engine is None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decompressed bytes, in pieces of at most 64 KiB.

        Raises:
            zlib.error: if the data is damaged.
        """
        while data and not self._padding:
            if self._engine is None:
                data = self._open(data)
                continue
            piece = self._engine.decompress(data, _PIECE)
            while piece:
                yield piece
                piece = self._engine.decompress(self._engine.unconsumed_tail, _PIECE)
            if not self._engine.eof:
                return
            data = self._engine.unused_data
            self._engine = None

    def _open(self, data: bytes) -> bytes:
        """Begins a member, once its two first bytes tell what it is; gives what is to be fed to it."""
        data, self._head = self._head + data, b""
        if len(data) < _HEAD:
            self._head = data
            return b""
        if self._members and not data.startswith(_GZIP_MAGIC):
            self._padding = True
            return b""
        self._members += 1
        framed = data.startswith(_GZIP_MAGIC) or (data[0] & 15 == 8 and int.from_bytes(data[:2]) % 31 == 0)  # noqa: PLR2004 - RFC 1950, 2.2
        self._engine = zlib.decompressobj(_GZIP_OR_ZLIB if framed else _BARE_DEFLATE)
        return data
