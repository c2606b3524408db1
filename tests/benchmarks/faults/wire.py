"""The fault server's HTTP, by hand: it must be able to break it, and be much cheaper than the client's."""

from __future__ import annotations

import asyncio
import json
from typing import Protocol

__all__ = ["Connection", "Server"]


class Server(Protocol):
    """Who answers."""

    async def serve(self, connection: Connection, what: bytes, body: bytes) -> None:
        """Answers one request; `what` is its method and path."""


class Connection(asyncio.Protocol):
    """One connection: requests one after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._data = b""
        self._task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """It went."""
        self.transport = None
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """A piece of a request came."""
        self._data += data
        if self._task is None:
            self._next()

    def _next(self) -> None:
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return
        body, self._data = rest[:length], rest[length:]
        method, path, _ = head.split(b" ", 2)
        self._task = asyncio.ensure_future(self._serve(method + b" " + path, body))

    async def _serve(self, what: bytes, body: bytes) -> None:
        try:
            await self._server.serve(self, what, body)
        finally:
            self._task = None
        if self.transport is not None and not self.transport.is_closing():
            self._next()

    def send(self, data: bytes) -> None:
        """Sends, if the client is still there."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def answer(self, body: object, status: int = 200, headers: str = "") -> None:
        """Sends a whole JSON answer."""
        data = json.dumps(body).encode()
        self.send(
            f"HTTP/1.1 {status} Told\r\nContent-Type: application/json\r\n{headers}"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )

    def chunk(self, data: str) -> None:
        """Sends one event of a stream."""
        event = f"data: {data}\n\n".encode()
        self.send(f"{len(event):x}\r\n".encode() + event + b"\r\n")

    def abort(self) -> None:
        """Breaks the connection."""
        if self.transport is not None:
            self.transport.abort()
