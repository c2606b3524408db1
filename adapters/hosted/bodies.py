"""Answers as they stream in: unpacked, limited, and given up when nothing comes of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic

import httpx2

from adapters.hosted.failures import error_in_answer
from adapters.hosted.inflate import Inflater
from adapters.hosted.sse import EventCleaner
from router.errors import ModelProtocolError, ModelTimeoutError

__all__ = ["Body", "ErrorBody", "EventBody", "Limits"]

#: Error bodies are small; more of one tells nothing.
_ERROR_BYTES = 64 * 1024
#: How much to read, and how long, for the end of a body after its last event, to keep the connection.
_FAREWELL_BYTES = 64 * 1024
_FAREWELL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one answer may take.

    Attributes:
        model: The model's name, for errors.
        max_bytes: The most bytes, packed or unpacked.
        seconds: Seconds the host was given in all; None if not limited.
        deadline: When they are over, by `time.monotonic`.
        idle: Seconds a stream may send nothing but comments.
    """

    model: str
    max_bytes: int
    seconds: float | None
    deadline: float
    idle: float


class Body(httpx2.AsyncByteStream):
    """The body of an answer in one piece."""

    def __init__(self, raw: httpx2.AsyncByteStream, limits: Limits, *, packed: bool) -> None:
        self._raw = raw
        self._closed = False
        self._limits = limits
        self._packed = packed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size, most, deadline = 0, self._limits.max_bytes, self._limits.deadline
        async for piece in self._pieces():
            size += len(piece)
            if size > most:
                raise self._too_large()
            if monotonic() > deadline:
                raise self._too_late()
            yield piece
            if self._closed:
                return

    async def aclose(self) -> None:
        """Closes the connection, unless the body was read to its end. Nothing more is read of it."""
        self._closed = True
        await self._raw.aclose()

    def _pieces(self) -> AsyncIterator[bytes]:
        return self._unpacked() if self._packed else aiter(self._raw)

    async def _unpacked(self) -> AsyncIterator[bytes]:
        inflater = Inflater()
        size = 0
        try:
            async for packed in self._raw:
                size += len(packed)
                if size > self._limits.max_bytes:
                    raise self._too_large()
                for piece in inflater.feed(packed):
                    yield piece
        except zlib.error as error:
            raise ModelProtocolError(
                f"the answer's compression is damaged: {error}", model=self._limits.model
            ) from error
        if not inflater.complete:
            raise ModelProtocolError("the answer's compressed data breaks off", model=self._limits.model)

    def _too_large(self) -> ModelProtocolError:
        return ModelProtocolError(
            f"the answer is larger than {self._limits.max_bytes} bytes", model=self._limits.model
        )

    def _too_late(self) -> ModelTimeoutError:
        return ModelTimeoutError(
            f"the answer was not complete after {self._limits.seconds:g} s",
            model=self._limits.model,
            timeout=self._limits.seconds,
        )


class ErrorBody(Body):
    """The body of an error status: cut, not refused, if large or damaged: the status says most."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        with contextlib.suppress(ModelProtocolError):
            async for piece in self._pieces():
                yield piece[: _ERROR_BYTES - size]
                size += len(piece)
                if size >= _ERROR_BYTES or monotonic() > self._limits.deadline:
                    return


class EventBody(Body):
    """The body of a stream: clean server-sent events, or an error if it is something else."""

    def __init__(
        self, raw: httpx2.AsyncByteStream, limits: Limits, *, packed: bool, content_type: str
    ) -> None:
        super().__init__(raw, limits, packed=packed)
        self._content_type = content_type

    async def __aiter__(self) -> AsyncIterator[bytes]:
        cleaner = EventCleaner()
        limits, begun, size, heard = self._limits, False, 0, monotonic()
        pieces = self._pieces()
        async for piece in pieces:
            size += len(piece)
            if size > limits.max_bytes:
                raise self._too_large()
            if not begun:
                begun = await self._check_start(piece, pieces)
            events = cleaner.feed(piece)
            now = monotonic()
            if now > limits.deadline:
                raise self._too_late()
            if events:
                heard = now
                yield events
                if self._closed:
                    return
            elif now - heard > limits.idle:
                raise self._silent()
            if cleaner.done:
                await _farewell(pieces)
                return
        last = cleaner.finish()
        if last:
            yield last

    async def _check_start(self, piece: bytes, rest: AsyncIterator[bytes]) -> bool:
        """Whether the stream has visibly begun; raises if what has begun is no stream."""
        start = piece.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        if not start:
            return False
        if start not in (b"{", b"[", b"<") and (
            "json" not in self._content_type or start in (b":", b"d", b"e", b"i", b"r")
        ):
            return True
        whole = [piece]
        size = len(piece)
        async for more in rest:
            whole.append(more)
            size += len(more)
            if size > self._limits.max_bytes:
                raise self._too_large()
        raise self._no_stream(b"".join(whole))

    def _no_stream(self, body: bytes) -> Exception:
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, list) and parsed:
            parsed = parsed[0]
        if isinstance(parsed, dict) and parsed.get("error"):
            return error_in_answer(parsed["error"], model=self._limits.model)
        what = "a web page" if body.lstrip().startswith(b"<") else "something else"
        return ModelProtocolError(
            f"a stream was asked for, and {'JSON in one piece' if parsed is not None else what} came",
            model=self._limits.model,
        )

    def _silent(self) -> ModelTimeoutError:
        return ModelTimeoutError(
            f"the stream sent nothing but comments for {self._limits.idle:g} s",
            model=self._limits.model,
            timeout=self._limits.idle,
        )


async def _farewell(pieces: AsyncIterator[bytes]) -> None:
    """Reads what little follows the last event, so that the connection can serve again."""
    size = 0
    # Whatever happens here, the answer is complete.
    with contextlib.suppress(TimeoutError, httpx2.HTTPError, ModelProtocolError):
        async with asyncio.timeout(_FAREWELL_SECONDS):
            async for piece in pieces:
                size += len(piece)
                if size > _FAREWELL_BYTES:
                    return
