"""The stream that a caller reads: openai's chunks, unchanged, with the decision behind them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from router.background import BackgroundLoop, Pump
from router.decision import Decision, Outcome
from router.errors import DeadlineExceededError, ModelError, RouterClosedError, StreamInterruptedError
from router.usage import characters_of

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

    from router.driver import Run
    from router.live import LiveAttempt

__all__ = ["AsyncRoutedStream", "RoutedStream"]

_CLOSED = "the router was closed while this stream was read"


class AsyncRoutedStream(AsyncIterator["ChatCompletionChunk"]):
    """An answer in chunks. Its first visible token is there when the caller gets it.

    Closing it, leaving its `async with`, or dropping it stops the work at the backend.

    Raises:
        StreamInterruptedError: while reading, if the stream breaks; it carries the text so far.
        DeadlineExceededError: while reading, if the request's deadline passes.
    """

    def __init__(self, run: Run, attempt: LiveAttempt) -> None:
        self._run = run
        self._attempt = attempt
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._buffer = attempt.buffer
        self._text: list[str] = []
        self._over = False
        self._expired = False
        self._timer: asyncio.TimerHandle | None = None
        self._wants_usage = run.routing.request.include_usage
        left = run.routing.deadline_at - run.core.now()
        if left != float("inf"):
            self._timer = self._loop.call_later(max(left, 0.0), self._expire)

    @property
    def routing(self) -> Decision:
        """The decision as it stands now; final once the stream has ended."""
        return self._run.decision()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        while True:
            chunk = self._buffer.popleft() if self._buffer else await self._read()
            if chunk.usage is not None:
                self._attempt.reported = chunk.usage
                if not chunk.choices and not self._wants_usage:
                    continue
            for choice in chunk.choices:
                delta = choice.delta
                self._attempt.characters += characters_of(delta)
                if choice.index == 0 and delta and delta.content:
                    self._text.append(delta.content)
            return chunk

    async def _read(self) -> ChatCompletionChunk:
        """The next chunk from the backend."""
        self._check_deadline()
        source = self._attempt.source
        if self._over or source is None:
            raise StopAsyncIteration
        if self._attempt.exhausted:
            await self._end("succeeded")
            raise StopAsyncIteration
        self._run.reader = reader = asyncio.current_task()
        try:
            return await source.__anext__()
        except StopAsyncIteration:
            if self._run.stopped:
                raise self._closed() from None
            await self._end("succeeded")
            raise
        except ModelError as error:
            self._attempt.error = error
            self._run.core.health.failed(error.model, error, self._run.core.now())
            await self._end("failed")
            raise self._interrupted(error) from error
        except asyncio.CancelledError:
            await self._end("cancelled")
            if (self._expired or self._run.stopped) and reader is not None and reader.uncancel() <= 0:
                self._check_deadline()
                raise self._closed() from None
            raise  # the caller was cancelled
        finally:
            self._run.reader = None

    def _interrupted(self, error: ModelError) -> StreamInterruptedError:
        text = "".join(self._text)
        interrupted = StreamInterruptedError(
            f"the stream of {error.model} broke after {len(text)} characters: {error}",
            text=text,
            usage=self._attempt.usage,
        )
        interrupted.decision = self.routing
        return interrupted

    def _closed(self) -> RouterClosedError:
        error = RouterClosedError(_CLOSED)
        error.decision = self.routing
        return error

    def _check_deadline(self) -> None:
        if self._expired:
            error = DeadlineExceededError(self._run.routing.options.deadline or 0.0)
            error.decision = self.routing
            raise error

    def _expire(self) -> None:
        """The deadline passed: whoever reads is woken, and nothing runs on."""
        if self._over:
            return
        self._expired = True
        if self._run.reader is not None:
            self._run.reader.cancel()
        else:
            self._run.core.keep(self._loop.create_task(self._end("cancelled")))

    async def _end(self, outcome: Outcome) -> None:
        """Closes the backend's stream and books what came of it. Once."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        attempt = self._attempt
        attempt.outcome = outcome
        attempt.ended_at = self._run.core.now()
        await self._run.finish(attempt, text="".join(self._text))

    async def aclose(self) -> None:
        """Stops the stream; what was not read is not answered. Does no harm when it has ended."""
        await self._end("cancelled")

    close = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._over or self._pid != os.getpid():
            return
        # A collection may come in the midst of anything, even under a lock: only the note is made here.
        self._run.core.orphans[self._run] = self._attempt
        with contextlib.suppress(RuntimeError):  # its loop has ended: the next request books it
            self._loop.call_soon_threadsafe(self._run.drop)


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
