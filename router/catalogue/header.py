"""Reads the numbers and strings of a GGUF header, forward, in blocks, within limits."""

from __future__ import annotations

import struct
from typing import BinaryIO

__all__ = ["MOST_HEADER_BYTES", "MOST_STRING_BYTES", "GGUFError", "HeaderReader"]

#: Real headers take some 20 MB at most, and their longest strings, the templates, some 20 kB.
MOST_HEADER_BYTES = 1 << 27
MOST_STRING_BYTES = 1 << 24

_BLOCK = 1 << 18
_U64 = struct.Struct("<Q")


class GGUFError(ValueError):
    """A file is no GGUF file that can be read: truncated, absurd, of another version or byte order."""


class HeaderReader:
    """Reads forward through a file. Nothing is believed that goes past its end or past the limits.

    Attributes:
        size: Bytes of the whole file.
        limit: Bytes that may be read at most.
        elements: For the caller to count the elements of arrays with.

    Raises:
        GGUFError: from every method, if the file ends too early or a length is absurd.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size = size
        self.limit = min(size, MOST_HEADER_BYTES)
        self.elements = 0
        self._stream = stream
        self._buffer = b""
        self._start = 0  # of the buffer, in the file
        self._position = 0  # in the buffer

    @property
    def place(self) -> int:
        """Bytes that were read or gone past."""
        return self._start + self._position

    def take(self, count: int) -> bytes:
        """The next bytes."""
        end = self._position + count
        if end > len(self._buffer):
            self._fill(count)
            end = self._position + count
        taken = self._buffer[self._position : end]
        self._position = end
        return taken

    def skip(self, count: int) -> None:
        """Goes on without looking."""
        self._position += count
        if self._start + self._position > self.limit:
            self._end_of_file()

    def number(self, form: struct.Struct) -> int:
        """An unsigned integer."""
        return int(form.unpack(self.take(form.size))[0])

    def text(self, most: int) -> str:
        """A string; bytes that are no UTF-8 are replaced."""
        return self.take(self._length(most)).decode("utf-8", "replace")

    def skip_text(self) -> None:
        """Goes past a string."""
        self.skip(self._length(MOST_STRING_BYTES))

    def skip_texts(self, count: int) -> None:
        """Goes past many strings: the loop that a large vocabulary is spent in."""
        length_at = _U64.unpack_from
        while count:
            buffer, position = self._buffer, self._position
            last = len(buffer) - _U64.size
            while count and position <= last:
                length = length_at(buffer, position)[0]
                if length > MOST_STRING_BYTES:
                    raise GGUFError(f"a string of {length} bytes; at most {MOST_STRING_BYTES} are believed")
                position += length + 8
                count -= 1
            self._position = position
            if count:
                self._fill(_U64.size)
        self.skip(0)

    def _length(self, most: int) -> int:
        length = self.number(_U64)
        if length > most:
            raise GGUFError(f"a string of {length} bytes; at most {most} are believed")
        return length

    def _fill(self, count: int) -> None:
        """Makes the next `count` bytes available."""
        self._start += self._position
        self._position = 0
        if self._start + count > self.limit:
            self._end_of_file()
        self._stream.seek(self._start)
        self._buffer = self._stream.read(max(count, _BLOCK)) or b""
        if len(self._buffer) < count:  # the file shrank, or a read came short
            raise GGUFError("the file ends inside its header: it is truncated")

    def _end_of_file(self) -> None:
        if self.limit < self.size:
            raise GGUFError(f"a header of more than {MOST_HEADER_BYTES} bytes")
        raise GGUFError("the file ends inside its header: it is truncated")
