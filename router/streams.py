"""The stream that a caller reads: openai's chunks, unchanged, with the decision behind them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from router.breaks import adapter_error, interruption, stall, unfinished
from router.decision import Decision, Outcome
from router.discreet import as_told
from router.errors import (
    DeadlineExceededError,
    ModelError,
    RouterClosedError,
    RouterError,
    StreamInterruptedError,
)
from router.resuming import Told, continuation
from router.shown import shown_usage, together
from router.stalls import Watchdog, watch
from router.usage import Usage, characters_of

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

    from router.driver import Run
    from router.errors import ModelProtocolError, ModelTimeoutError
    from router.live import LiveAttempt
    from router.resuming import Continuation

__all__ = ["AsyncRoutedStream"]

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
        #: The run that the chunks come from: the request's, or the one that goes on with its answer.
        self._leg = run
        self._attempt = attempt
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._buffer = attempt.buffer
        self._text: list[str] = []
        self._told = Told()
        self._usage_before: Usage | None = None
        self._over = False
        self._expired = False
        self._stalled: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wants_usage = run.routing.request.include_usage
        left = run.routing.deadline_at - run.core.now()
        if left != float("inf"):
            self._timer = self._loop.call_later(max(left, 0.0), self._expire)
        self._now = run.core.now
        if self._buffer:
            self._told.first = self._buffer[0]
        self._watchdog: Watchdog | None = watch(run.core, run.routing.fleet, attempt.place, self._bark)

    @property
    def routing(self) -> Decision:
        """The decision as it stands now; final once the stream has ended."""
        return self._run.decision()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        while True:
            chunk = self._buffer.popleft() if self._buffer else await self._read()
            if chunk is None:
                continue
            if chunk.usage is not None:
                self._attempt.reported = chunk.usage
                if not chunk.choices and not self._wants_usage:
                    continue
                chunk.usage = shown_usage(self._leg.routing, self._attempt, self._usage_before)
            for choice in chunk.choices:
                delta = choice.delta
                self._attempt.characters += characters_of(delta)
                if choice.index == 0 and delta and delta.content:
                    self._text.append(delta.content)
                    if delta.tool_calls or choice.finish_reason:
                        self._see(chunk)
                else:
                    self._see(chunk)
            return chunk

    def _see(self, chunk: ChatCompletionChunk) -> None:
        self._told.see(chunk)
        if self._watchdog is not None and self._is_whole:
            self._watchdog.whole = True

    @property
    def _is_whole(self) -> bool:
        """Whether the reader has the whole answer: usage may follow, but nothing that is worth an error."""
        return len(self._told.finished) >= self._run.routing.request.choices

    async def _read(self) -> ChatCompletionChunk | None:
        """The next chunk from the backend; None to look into the buffer again."""
        if self._expired:
            self._check_deadline()
            await self._end("succeeded")
        source = self._attempt.source
        if self._attempt.exhausted:
            await self._end("succeeded")
        if self._over or source is None:
            raise StopAsyncIteration
        run, watchdog = self._run, self._watchdog
        run.reader = reader = asyncio.current_task()
        asked_at = 0.0 if watchdog is None else watchdog.ask()
        try:
            chunk = await source.__anext__()
        except StopAsyncIteration:
            broken: ModelError = await self._ended()
        except asyncio.CancelledError:
            ours = self._expired or run.stopped or self._stalled is not None
            if not ours or reader is None or reader.uncancel() > 0:
                await self._end("cancelled")
                raise  # the caller was cancelled
            broken = await self._woken()
        except Exception as error:  # noqa: BLE001 - a bug in an adapter must not lose what was said so far
            broken = as_told(self._leg.routing, self._attempt.place, adapter_error(self._model, error))
        else:
            if watchdog is not None:
                watchdog.came(asked_at)
            return chunk
        finally:
            run.reader = None
        await self._mend(broken)
        return None

    async def _ended(self) -> ModelProtocolError:
        """What is wrong with the end of the backend's stream, if anything is; else ends this one, too."""
        if self._run.stopped:
            raise self._closed() from None
        if self._told.finished:
            await self._end("succeeded")
            raise StopAsyncIteration
        return unfinished(self._model)

    @property
    def _model(self) -> str:
        """The name of the model that the chunks come from."""
        return self._run.routing.fleet.names[self._attempt.place]

    def _bark(self, silent: float) -> None:
        """The stream has stalled: whoever reads is woken."""
        if self._run.reader is not None:
            self._stalled = silent
            self._run.reader.cancel()

    async def _woken(self) -> ModelTimeoutError:
        """Why whoever reads was woken, if that is no end; else ends the stream."""
        if self._is_whole:
            await self._end("succeeded")
            raise StopAsyncIteration from None
        if self._expired or self._run.stopped:
            await self._end("cancelled")
            self._check_deadline()
            raise self._closed() from None
        silent, self._stalled = self._stalled or 0.0, None
        return stall(self._model, silent)

    async def _mend(self, error: ModelError) -> None:
        """The stream broke: goes on with it elsewhere, once, if the app wants that, or raises.

        Raises:
            StreamInterruptedError: if nobody goes on with it.
            DeadlineExceededError: if the time is over.
        """
        self._unwatch()
        run, attempt = self._run, self._attempt
        attempt.outcome, attempt.error, attempt.ended_at = "failed", error, self._now()
        run.core.health.failed(error.model, error, attempt.ended_at, began=attempt.started_at)
        if self._leg is not run or run.core.config.recovery.on_interrupt == "raise":
            await self._end("failed")
            raise self._interrupted(error) from error
        run.reader = reader = asyncio.current_task()
        try:
            rest = await continuation(run, attempt, "".join(self._text), self._told)
            if rest is not None:
                self._go_on(rest, await rest.drive())
                return
        except asyncio.CancelledError:
            await self._end("failed")
            if (self._expired or run.stopped) and reader is not None and reader.uncancel() <= 0:
                self._check_deadline()
                raise self._closed() from None
            raise
        except DeadlineExceededError as late:
            await self._end("failed")
            late.decision = self.routing
            raise
        except RouterError as failed:
            await self._end("failed")
            raise self._interrupted(error, f"; nobody could go on with it: {failed}") from error
        finally:
            run.reader = None
        await self._end("failed")
        raise self._interrupted(error, "; no model can go on with it") from error

    def _go_on(self, rest: Continuation, winner: LiveAttempt) -> None:
        """Another attempt gives the rest of the answer."""
        run, broken, names = self._run, self._attempt, self._run.routing.fleet.names
        name, before = names[winner.place], names[broken.place]
        length = sum(map(len, self._text))
        run.routing.notes += (f"continued: {name} went on after {length} characters of {before}",)
        self._usage_before = broken.usage
        if broken.error is not None:
            # Its frames hold this stream, and the request holds the error: nobody could drop the stream.
            broken.error.__traceback__ = None
        if self._wants_usage and not broken.usage_is_reported:
            run.routing.notes += (f"usage: that of {before}, which told none, is estimated in the sum",)
        self._leg, self._attempt, self._buffer = rest, winner, winner.buffer
        self._watchdog = watch(run.core, run.routing.fleet, winner.place, self._bark)

    def _unwatch(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None

    def _interrupted(self, error: ModelError, more: str = "") -> StreamInterruptedError:
        usage = together(self._usage_before, self._attempt.usage)
        interrupted = interruption(error, "".join(self._text), usage, more)
        interrupted.decision = self.routing
        return interrupted

    def _closed(self) -> RouterClosedError:
        error = RouterClosedError(_CLOSED)
        error.decision = self.routing
        return error

    def _check_deadline(self) -> None:
        if self._expired and not self._is_whole:
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
            outcome: Outcome = "succeeded" if self._is_whole else "cancelled"
            self._run.core.keep(self._loop.create_task(self._end(outcome)))

    async def _end(self, outcome: Outcome) -> None:
        """Closes the backend's stream and books what came of it. Once."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._unwatch()
        attempt = self._attempt
        if attempt.outcome == "running":
            attempt.outcome = outcome
            attempt.ended_at = self._now()
        await self._leg.finish(attempt, text="".join(self._text))

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
        self._run.core.orphans[self._leg] = self._attempt
        with contextlib.suppress(RuntimeError):  # its loop has ended: the next request books it
            self._loop.call_soon_threadsafe(self._leg.drop)
