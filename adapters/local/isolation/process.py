"""One process of an engine, as the app sees it: started, spoken with, ended, buried."""

from __future__ import annotations

import os
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import IO

from adapters.local.isolation.ending import Ending
from adapters.local.isolation.starting import StartError, start
from adapters.local.isolation.wire import GREETING, Frames, Plain, frame, pack, write_all

__all__ = ["Child"]

#: Seconds that it has to end by itself, and then to obey SIGTERM.
GRACE, TERM_GRACE = 1.0, 0.3
#: Seconds to wait for what follows at once, before giving up on it.
_AT_ONCE = 1.0
_CHUNK = 1 << 16
#: Bytes before the greeting, at most.
_MOST_NOISE = 1 << 20


class Child:
    """One process of an engine. Methods may be called from any thread and return at once, unless they say.

    Args:
        name: What its threads are called after.
        first: Says the first message to it, on this object's own thread, before it is started; may wait, and
            may raise a `StartError`.
        keep: Descriptors of the app's that it keeps.
        hear: Is told every message, on this object's own thread.
        over: Is told of its end, there too, once; nothing is heard after it.
    """

    def __init__(
        self,
        name: str,
        first: Callable[[], object],
        *,
        keep: tuple[int, ...],
        hear: Callable[[object], None],
        over: Callable[[Ending], None],
    ) -> None:
        self._name = name
        self._keep = keep
        self._hear = hear
        self._over = over
        self._process: subprocess.Popen[bytes] | None = None
        self._outbox: SimpleQueue[Plain] = SimpleQueue()
        self._first = first
        self._last_words: deque[str] = deque(maxlen=1)
        self._gone = threading.Event()
        self._owner = self._thread(self._run, "")
        _children.add(self)
        self._owner.start()

    def send(self, message: object) -> None:
        """Queues a message for it; lost if it is no more.

        Raises:
            TypeError: if something in the message is no data.
        """
        self._outbox.put(pack(message))

    def end(self, wait: float) -> None:
        """Ends it: by asking, by SIGTERM, by SIGKILL.

        Args:
            wait: Seconds to wait for its end, about; 0: none, it is seen to in the background.
        """
        self._outbox.put(None)
        if self._gone.is_set():
            return
        if wait <= 0 or threading.current_thread() is self._owner:
            self._thread(lambda: self._see_to_its_end(GRACE), "-end").start()
        else:
            self._see_to_its_end(min(wait, GRACE))
            self._owner.join(_AT_ONCE)

    @property
    def ended(self) -> bool:
        """Whether the process and the threads that served it are no more."""
        return not self._owner.is_alive()

    @property
    def pid(self) -> int | None:
        """Its process id; None if it was not started (yet)."""
        return None if self._process is None else self._process.pid

    def forget(self) -> None:
        """In a fork of the app's process: lets go of the pipes, or the child would not see them end."""
        process = self._process
        if process is None:
            return
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        if process.returncode is None:
            process.returncode = 0  # it is not ours to wait for, and Popen would complain

    def _thread(self, target: Callable[[], None], what: str) -> threading.Thread:
        return threading.Thread(target=target, name=f"router-process{what}-{self._name}", daemon=True)

    def _see_to_its_end(self, grace: float) -> None:
        if self._gone.wait(grace):
            return
        if self._process is not None:
            self._process.terminate()
        if not self._gone.wait(TERM_GRACE) and self._process is not None:
            self._process.kill()
            self._gone.wait(_AT_ONCE)

    # On threads of its own

    def _run(self) -> None:
        try:
            first = pack(self._first())
            self._process = process = start(self._keep)
        except StartError as error:
            ending = Ending(None, reason=str(error))
        else:
            ending = self._serve(process, first)
        self._gone.set()
        self._over(ending)

    def _serve(self, process: subprocess.Popen[bytes], first: Plain) -> Ending:
        assert process.stdin is not None  # noqa: S101 - pipes were asked for
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        writer = self._thread(lambda: self._write(stdin, first), "-in")
        drain = self._thread(lambda: self._drain(stderr), "-err")
        reason = ""
        try:
            writer.start()
            drain.start()
            self._read(stdout)
        except Exception as error:  # noqa: BLE001 - whatever it sent, those who wait for it must be told
            reason = f"it cannot be spoken with ({error})"
            process.kill()
        code = self._wait(process)
        self._outbox.put(None)
        for thread, pipe in ((writer, stdin), (drain, stderr)):
            if thread.is_alive():
                thread.join(_AT_ONCE)  # standard error may be held open by a grandchild for longer
            if not thread.is_alive():
                pipe.close()
        stdout.close()
        return Ending(code, reason=reason, last_words="".join(self._last_words))

    @staticmethod
    def _wait(process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(_AT_ONCE)
        except subprocess.TimeoutExpired:  # it closed its end of the pipe and lives
            process.kill()
            return process.wait()

    def _read(self, stdout: IO[bytes]) -> None:
        frames = Frames()
        for message in frames.feed(self._greeting(stdout)):
            self._hear(message)
        while data := os.read(stdout.fileno(), _CHUNK):
            for message in frames.feed(data):
                self._hear(message)

    def _greeting(self, stdout: IO[bytes]) -> bytes:
        """What follows the greeting in the first bytes; empty if the pipe ended before it."""
        start = b""
        while GREETING not in start:
            data = os.read(stdout.fileno(), _CHUNK)
            if not data:
                return b""
            start += data
            if len(start) > _MOST_NOISE:
                raise ValueError("it prints on its standard output when Python starts")
        return start.partition(GREETING)[2]

    def _write(self, stdin: IO[bytes], first: Plain) -> None:
        with stdin, suppress(OSError):  # whoever reads knows better why the pipe broke
            write_all(stdin.fileno(), frame([first]))
            more = True
            while more:
                batch, more = self._batch()
                if batch:
                    write_all(stdin.fileno(), frame(batch))

    def _batch(self) -> tuple[list[Plain], bool]:
        """All that is to be sent now, and whether there will be more."""
        batch: list[Plain] = []
        message = self._outbox.get()
        while message is not None:
            batch.append(message)
            try:
                message = self._outbox.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _drain(self, stderr: IO[bytes]) -> None:
        with stderr:
            rest = b""
            while data := os.read(stderr.fileno(), _CHUNK):
                *lines, rest = (rest[-_CHUNK:] + data).split(b"\n")
                for line in (*lines, rest):
                    if text := line.decode("utf-8", "replace").strip():
                        self._last_words.append(text)


_children: weakref.WeakSet[Child] = weakref.WeakSet()


def _forget_all() -> None:
    for child in list(_children):
        child.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
