"""A private event loop on a daemon thread, for callers that have none or must not block theirs."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import functools
import os
import queue
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Generic, TypeVar

from router.errors import RouterClosedError, RouterError

__all__ = ["BackgroundLoop", "Pump"]

T = TypeVar("T")

#: Seconds to wait for the loop's thread at the end of the program.
EXIT_PATIENCE = 2.0
_ENDED = "this router was closed, or the program is ending"
#: Chunks that are read ahead of a synchronous caller.
READ_AHEAD = 64


class BackgroundLoop:
    """Runs coroutines for threads that wait. Its thread starts with the first one; `stop` is for good."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = False
        _LOOPS.add(self)

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; in a forked child, a new one.

        Raises:
            RouterClosedError: if it was stopped.
        """
        with self._lock:
            return self._started()

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._ended:
            raise RouterClosedError(_ENDED)
        if self._loop is None:
            _end_with_the_program()
            ready: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
            self._thread = threading.Thread(target=_run, args=(ready,), name="router-loop", daemon=True)
            self._thread.start()
            self._loop = ready.result()
        return self._loop

    def run(self, make: Callable[[], Coroutine[object, object, T]]) -> T:
        """Runs a coroutine on the loop, in the caller's context, and waits for it.

        An interruption of the wait (such as KeyboardInterrupt) cancels the coroutine.

        Raises:
            RouterError: if called on the loop's own thread, where waiting would never end.
            RouterClosedError: if the loop was stopped, or is meanwhile.
        """
        if threading.current_thread() is self._thread:
            raise RouterError(
                "the synchronous Router was called on its own event loop's thread and would wait for itself "
                "for ever; use AsyncRouter there"
            )
        result: concurrent.futures.Future[T] = concurrent.futures.Future()
        context = contextvars.copy_context()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = loop.create_task(make(), context=context)
            tasks.append(task)
            task.add_done_callback(lambda done: _hand_over(done, result))

        if self._ended:
            _wait_to_be_ended()
        with self._lock:  # so that it comes before the loop's end, or not at all
            loop = self._started()
            loop.call_soon_threadsafe(begin)
        try:
            return result.result()
        except concurrent.futures.CancelledError:
            if self._ended:
                _wait_to_be_ended()
                raise RouterClosedError(_ENDED) from None
            raise
        except BaseException:
            if not result.done():
                with contextlib.suppress(RuntimeError):  # the loop has ended, and the task with it
                    loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            raise

    def stop(self) -> None:
        """Ends the loop and its thread, within two seconds."""
        with self._lock:
            self._ended = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
            if loop is None or thread is None:
                return
            loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join(EXIT_PATIENCE)

    def after_fork(self) -> None:
        """In a child process: the parent's thread is not here; a new one starts when it is needed."""
        # Kept on purpose: a loop that is collected closes its selector, which the parent still uses.
        _ABANDONED.append(self._loop)
        self._lock, self._loop, self._thread = threading.Lock(), None, None


def _hand_over(done: asyncio.Task[T], result: concurrent.futures.Future[T]) -> None:
    if done.cancelled():
        result.set_exception(concurrent.futures.CancelledError())
    elif (error := done.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(done.result())


def _run(ready: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
    """The thread: a loop until it is stopped, then what is left is cancelled."""
    loop = asyncio.new_event_loop()
    loop.call_soon(ready.set_result, loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _cancel_all() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


_LOOPS: weakref.WeakSet[BackgroundLoop] = weakref.WeakSet()
#: Set when the program ends.
_ENDING = threading.Event()


_ABANDONED: list[object] = []


@functools.cache
def _end_with_the_program() -> None:
    """Registered with the first thread, so that it runs before the ledger ends and its costs are booked."""
    atexit.register(_stop_all)


def _stop_all() -> None:
    _ENDING.set()
    for loop in list(_LOOPS):
        loop.stop()


def _wait_to_be_ended() -> None:
    """Holds a daemon thread that is told that the program ends: its error would only be printed.

    Not for ever: somebody may wait for the thread.
    """
    if _ENDING.is_set() and threading.current_thread().daemon:
        time.sleep(EXIT_PATIENCE)


def _after_fork_in_child() -> None:
    for loop in list(_LOOPS):
        loop.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class Pump(Iterator[T], Generic[T]):
    """Reads an asynchronous stream on the background loop, a little ahead of a synchronous reader.

    One hop between threads per chunk would cost more than the chunk; so a task on the loop fills a queue.
    """

    def __init__(self, background: BackgroundLoop, source: AsyncIterator[T]) -> None:
        self._source = source
        self._queue: queue.SimpleQueue[tuple[T] | BaseException] = queue.SimpleQueue()
        self._room: asyncio.Event | None = None
        self._waits = False
        self._over = False
        self._pid = os.getpid()
        self._loop = background.loop()
        self._task: asyncio.Task[None] | None = None
        context = contextvars.copy_context()
        self._loop.call_soon_threadsafe(self._begin, context)

    def _begin(self, context: contextvars.Context) -> None:
        if self._over:  # closed or dropped before the loop came to it
            return
        self._room = asyncio.Event()
        self._task = self._loop.create_task(
            _pump(weakref.ref(self), self._source, self._room), context=context
        )

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        if self.forked:
            raise RouterClosedError("this stream belongs to the process that this one was forked from")
        item = self._queue.get()
        if self._waits and self._queue.qsize() < READ_AHEAD // 2 and self._room is not None:
            self._waits = False
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the end is in the queue
                self._loop.call_soon_threadsafe(self._room.set)
        if isinstance(item, tuple):
            return item[0]
        self._over = True
        self._queue.put(StopIteration())  # for other threads that wait for the same stream
        if isinstance(item, RouterClosedError):
            _wait_to_be_ended()
        raise item

    def put(self, item: tuple[T] | BaseException) -> bool:
        """Adds to the queue; False if it is full now, and the reader will say when it is not."""
        self._queue.put(item)
        if self._queue.qsize() < READ_AHEAD:
            return True
        self._waits = True
        # The reader may have emptied the queue before it could see that somebody waits.
        if self._queue.qsize() < READ_AHEAD // 2:
            self._waits = False
        return not self._waits

    @property
    def forked(self) -> bool:
        """Whether this is a copy in a child process, where nobody fills the queue."""
        return self._pid != os.getpid()

    @property
    def over(self) -> bool:
        """Whether the reader has read to the end, or wants no more."""
        return self._over

    def stop(self) -> None:
        """Stops reading. The source is closed by its owner."""
        self._over = True
        task = self._task
        if task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the task with it
                self._loop.call_soon_threadsafe(task.cancel)


async def _pump(reader: weakref.ref[Pump[T]], source: AsyncIterator[T], room: asyncio.Event) -> None:
    """Fills the queue until the source ends or nobody reads any more."""
    end: BaseException = StopIteration()
    try:
        async for item in source:
            pump = reader()
            if pump is None:
                return
            full = not pump.put((item,))
            del pump
            if full:
                room.clear()
                await room.wait()
    except asyncio.CancelledError:
        pump = reader()
        if pump is not None and not pump.over:  # it was the loop that ended: a stream is not cut silently
            end = RouterClosedError("the router was closed while this stream was read")
        raise
    except Exception as error:  # noqa: BLE001 - it is raised again where the stream is read
        end = error
    finally:
        pump = reader()
        if pump is not None:
            pump.put(end)
