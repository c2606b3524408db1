"""The stream that synchronous code reads: the asynchronous one, on the background loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from router.background import BackgroundLoop, Pump
from router.decision import Decision
from router.errors import RouterClosedError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

    from router.streams import AsyncRoutedStream

__all__ = ["RoutedStream"]


class RoutedStream(Iterator["ChatCompletionChunk"]):
    """An answer in chunks, for synchronous code. As `AsyncRoutedStream`."""

    def __init__(self, stream: AsyncRoutedStream, background: BackgroundLoop) -> None:
        self._stream = stream
        self._background = background
        self._pump = Pump(background, stream)

    @property
    def routing(self) -> Decision:
        """The decision as it stands now; final once the stream has ended."""
        return self._stream.routing

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        try:
            return next(self._pump)
        except KeyboardInterrupt:
            self.close()
            raise
        except RouterClosedError as error:
            error.decision = error.decision or self.routing
            raise

    def close(self) -> None:
        """Stops the stream at the backend. Does no harm when it has ended."""
        if self._pump.forked:  # it is the parent's to close
            return
        self._pump.stop()
        with contextlib.suppress(RouterClosedError):  # the loop has ended, and the stream with it
            self._background.run(self._stream.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        pump = getattr(self, "_pump", None)  # there is none if the router was closed in that moment
        if pump is not None and not pump.forked:
            pump.stop()
