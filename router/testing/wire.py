"""The loopback server's HTTP/1.1, able to break it on purpose."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol, TypeAlias

from router.testing.replies import Received, Reply, completion_body, error_body, stream_events

__all__ = ["Answer", "Connection"]

_BOMB_BYTES = 200 * 1024 * 1024
_LARGE = 1024

Begin: TypeAlias = Callable[[Received], Reply]


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    megabyte = b" " * (1024 * 1024)
    return b"".join(packer.compress(megabyte) for _ in range(_BOMB_BYTES // len(megabyte))) + packer.flush()


class End(Protocol):
    """Told that an answer has ended."""

    def __call__(self, request: Received, /, *, whole: bool) -> None: ...


class Connection(asyncio.Protocol):
    """One connection: HTTP/1.1 with keep-alive, one request at a time.

    Args:
        begin: Called with each request; gives what to answer.
        end: Called when its answer has ended, with whether it reached the client.
        living: Where the connection keeps itself while it is open.
    """

    def __init__(self, begin: Begin, end: End, living: set[Connection]) -> None:
        self._begin = begin
        self._end = end
        self._living = living
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client is here."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what asyncio promises for TCP
        self._transport = transport
        self._living.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client is gone: nobody waits for the answer any more."""
        self._living.discard(self)
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        """Drops the connection without a farewell."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """A piece of a request, or of several."""
        self._buffer += data
        if self._task is None:
            self._next_request()

    def _next_request(self) -> None:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        method, path, _ = first.split(" ", 2)
        body = _object(rest[:length])
        request = Received(method=method, path=path, headers=headers, body=body)
        self._task = asyncio.get_running_loop().create_task(self._serve(request))

    async def _serve(self, request: Received) -> None:
        assert self._transport is not None  # noqa: S101 - set before any data can arrive
        reply = self._begin(request)
        whole = False
        try:
            await Answer(self._transport, request, reply).send()
            whole = not self._transport.is_closing() or reply.fault is not None
        finally:
            self._end(request, whole=whole)
            self._task = None
        if self._buffer and not self._transport.is_closing():
            self._next_request()


def _object(body: bytes) -> dict[str, object]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


class Answer:
    """Writes one reply to one connection."""

    def __init__(self, transport: asyncio.Transport, request: Received, reply: Reply) -> None:
        self._transport = transport
        self._request = request
        self._reply = reply
        self._stream = bool(request.body.get("stream"))

    async def send(self) -> None:
        """Answers, or fails as the reply says."""
        reply = self._reply
        if reply.fault == "disconnect":
            self._transport.abort()
            return
        if reply.fault == "hang":
            await asyncio.Event().wait()
        if reply.ttft:
            await asyncio.sleep(reply.ttft)
        if self._request.path.split("?")[0].endswith("/models"):
            self._whole(json.dumps({"object": "list", "data": []}).encode())
        elif reply.raw is not None:
            await self._pieces(reply.raw, "text/event-stream" if self._stream else "application/json")
        elif reply.status >= 400:  # noqa: PLR2004 - HTTP's own border between success and error
            self._whole(json.dumps(error_body(reply)).encode(), status=reply.status)
        elif not await self._fault():
            await self._answer()

    async def _answer(self) -> None:
        reply, asked = self._reply, self._request.body
        if self._stream and reply.fault != "json_for_stream":
            await self._pieces(self._events(), "text/event-stream")
            return
        if reply.per_token:
            await asyncio.sleep(reply.per_token * (len(reply.text or "") // reply.chunk))
        self._whole(
            json.dumps(completion_body(reply, asked), ensure_ascii=False).encode(), status=reply.status
        )

    def _events(self) -> Iterator[bytes]:
        """A stream's events with its fault woven in."""
        error = b"data: " + json.dumps(error_body(self._reply)).encode() + b"\n\n"
        woven = {"corrupt": b'data: {"id":"x","choi\n\n', "error_later": error}.get(self._reply.fault or "")
        if self._reply.fault == "error_first":
            yield error
            return
        reply = replace(self._reply, text=None) if self._reply.fault == "null_content" else self._reply
        if reply.fault == "no_choices":
            yield b'data: {"id":"x","object":"chat.completion.chunk","choices":[]}\n\ndata: [DONE]\n\n'
            return
        for place, event in enumerate(stream_events(reply, self._request.body)):
            if place == 2 and woven is not None:  # noqa: PLR2004 - after the role and one piece of content
                yield woven
            if place == 2 and self._reply.fault == "truncated":  # noqa: PLR2004 - as above
                return
            yield event

    async def _fault(self) -> bool:
        """Fails as the reply says; whether it did."""
        bodies = {
            "html": (b"<!doctype html><html><body>Welcome</body></html>", "text/html"),
            "null": (b"null", "application/json"),
            "empty": (b"", "application/json"),
            "not_json": (b'{"id": "x", "choi', "application/json"),
            "wrong_json": (b'{"status": "ok"}', "application/json"),
            "error_in_200": (json.dumps(error_body(self._reply)).encode(), "application/json"),
        }
        fault = self._reply.fault or ""
        if fault in bodies:
            self._whole(*bodies[fault])
        elif fault in ("no_choices", "null_content") and not self._stream:
            body = completion_body(Reply(text=None), self._request.body)
            self._whole(json.dumps(body | ({"choices": []} if fault == "no_choices" else {})).encode())
        elif fault == "truncated" and not self._stream:
            self._head("application/json", 200, "content-length: 1000")
            self._transport.write(b'{"id": "x", ')
            self._transport.close()
        elif fault == "redirect":
            self._head("text/plain", 307, f"location: {self._reply.location}", "content-length: 0")
        elif fault == "gzip_bomb":
            self._bomb()
        elif fault in ("keep_alive", "oversize"):
            await self._endless(b": ping\n\n" if fault == "keep_alive" else b" " * 65536)
        else:
            return False
        return True

    def _bomb(self) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        megabyte = b" " * (1024 * 1024)
        packed = (
            b"".join(packer.compress(megabyte) for _ in range(_BOMB_BYTES // len(megabyte))) + packer.flush()
        )
        content_type = "text/event-stream" if self._stream else "application/json"
        self._head(content_type, 200, "content-encoding: gzip", f"content-length: {len(packed)}")
        self._transport.write(packed)

    async def _endless(self, piece: bytes) -> None:
        self._head(
            "text/event-stream" if self._stream else "application/json", 200, "transfer-encoding: chunked"
        )
        while True:
            self._chunk(piece)
            await asyncio.sleep(0.01 if len(piece) < _LARGE else 0.001)

    async def _pieces(self, pieces: Iterator[bytes] | Sequence[bytes], content_type: str) -> None:
        self._head(content_type, self._reply.status, "transfer-encoding: chunked")
        for place, piece in enumerate(pieces):
            if place and self._reply.per_token:
                await asyncio.sleep(self._reply.per_token)
            self._chunk(piece)
        if self._reply.fault == "truncated":
            self._transport.close()
        else:
            self._transport.write(b"0\r\n\r\n")

    def _chunk(self, piece: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _whole(self, body: bytes, content_type: str = "application/json", status: int = 200) -> None:
        self._head(content_type, status, f"content-length: {len(body)}")
        self._transport.write(body)

    def _head(self, content_type: str, status: int, *lines: str) -> None:
        declared = content_type if self._reply.content_type is None else self._reply.content_type
        more = [f"{name}: {value}" for name, value in self._reply.headers.items()]
        typed = [f"content-type: {declared}"] if declared else []
        head = [f"HTTP/1.1 {status} Scripted", *typed, *lines, *more, "", ""]
        self._transport.write("\r\n".join(head).encode("latin-1"))
