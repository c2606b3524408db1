"""The process that an engine runs in: `python -m adapters.local.isolation.child`.

It reads commands from its standard input and ends when that ends, which is also when the app dies. It asks
nobody for anything else: no terminal, no signal but those that end it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, NoReturn, cast

from adapters.local.engine import Engine, Finish, Job, ModelFacts
from adapters.local.engines import engine_of
from adapters.local.isolation.messages import Cancel, Command, Heard, Open, Opened, Setup, Submit
from adapters.local.isolation.saying import Forwarding
from adapters.local.isolation.turn import join
from adapters.local.isolation.wire import GREETING, Frames, Plain, frame, job_of, pack, write_all
from adapters.local.residency import Lodger
from router.adapter import Load
from router.errors import ModelError
from router.models import LocalModel

__all__ = ["main"]

#: Seconds between two looks around while there is nothing to say.
TICK = 1.0
#: Seconds that the engine has to end, and then what it said last to be sent.
_END, _FLUSH = 0.7, 0.2
#: Of 1000: when memory runs out, Linux ends this process rather than the app.
_FIRST_VICTIM = 600
_CHUNK = 1 << 16


def main() -> NoReturn:
    """Serves one engine until the app lets go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the app decides
    commands, events = _own_pipes()
    _be_the_first_victim()
    write_all(events, GREETING)
    frames = Frames()
    office: _Office | None = None
    while data := os.read(commands, _CHUNK):
        for message in frames.feed(data):
            command = cast("Command", message)
            if isinstance(command, Setup):
                office = _Office(command, events)
            elif office is not None:
                office.take(command)
    if office is not None:
        office.close()
    # Nothing is left to be put in order, and native libraries may hang in their own end.
    os._exit(0)


def _own_pipes() -> tuple[int, int]:
    """Moves the pipes out of the way of whatever reads or prints; what is printed goes to standard error."""
    commands, events = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, events


def _be_the_first_victim() -> None:
    path = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):
        if int(path.read_text(encoding="ascii")) < _FIRST_VICTIM:
            path.write_text(str(_FIRST_VICTIM), encoding="ascii")


def _last_words() -> logging.Handler:
    """Warnings go to standard error, too: its last line is what is told of a crash."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    return handler


class _Office:
    """Hands commands to the engine, and what it says to the app."""

    def __init__(self, setup: Setup, events: int) -> None:
        if setup.turn is not None:
            join(setup.turn)
        # The app says when the model leaves memory.
        fields = {**setup.model, "isolation": "thread", "idle_ttl": None}
        self._engine: Engine = engine_of(LocalModel.parse(fields), place=Lodger(setup.cells))
        self._jobs: dict[int, Job] = {}
        self._post = _Post(events, self._engine)
        root = logging.getLogger()
        root.addHandler(Forwarding(self._post.put))
        root.addHandler(_last_words())

    def take(self, command: Command) -> None:
        if isinstance(command, Open):
            self._open(command.id)
        elif isinstance(command, Submit):
            self._submit(command)
        elif isinstance(command, Cancel):
            job = self._jobs.pop(command.id, None)
            if job is not None:
                self._engine.cancel(job)

    def _open(self, number: int) -> None:
        def told(outcome: ModelFacts | ModelError) -> None:
            self._post.put(Opened(number, outcome))

        try:
            self._engine.open(told)
        except ModelError as error:
            told(error)

    def _submit(self, command: Submit) -> None:
        teller = _Teller(command.id, self._post, self._jobs)
        job = self._jobs[command.id] = job_of(command.job, teller)
        try:
            self._engine.submit(job)
        except ModelError as error:
            teller.failed(error)

    def close(self) -> None:
        self._engine.close(wait=_END)
        self._post.close()


class _Teller:
    """An `engine.Listener` that passes all on. Its arguments are whatever an engine tells its listeners."""

    def __init__(self, number: int, post: _Post, jobs: dict[int, Job]) -> None:
        self._number = number
        self._post = post
        self._jobs = jobs

    def started(self, *told: Any, **named: Any) -> None:
        self._tell("started", told, named)

    def piece(self, *told: Any, **named: Any) -> bool:
        self._tell("piece", told, named)
        return True  # the listener in the app may say otherwise; then the job is cancelled

    def finished(self, finish: Finish, *told: Any, **named: Any) -> None:
        self._jobs.pop(self._number, None)
        self._tell("finished", (finish, *told), named)

    def failed(self, error: ModelError) -> None:
        self._jobs.pop(self._number, None)
        self._tell("failed", (error,), {})

    def _tell(
        self,
        method: Literal["started", "piece", "finished", "failed"],
        told: tuple[object, ...],
        named: Mapping[str, object],
    ) -> None:
        self._post.put(Heard(self._number, method, told, named))


class _Post:
    """Sends on a thread of its own, so that the engine computes on; what piles up goes in one frame."""

    def __init__(self, events: int, engine: Engine) -> None:
        self._events = events
        self._parent = os.getppid()
        self._engine = engine
        self._load: Load | None = None
        self._outbox: SimpleQueue[Plain] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="router-post", daemon=True)
        self._thread.start()

    def put(self, event: object) -> None:
        self._outbox.put(pack(event))

    def close(self) -> None:
        self._outbox.put(None)
        self._thread.join(_FLUSH)

    def _run(self) -> None:
        try:
            more = True
            while more:
                batch, more = self._batch()
                if batch:
                    write_all(self._events, frame(batch))
        except OSError:  # the app is no more
            os._exit(0)
        except Exception as error:  # noqa: BLE001 - without this thread nobody hears anything: better end
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)

    def _batch(self) -> tuple[list[Plain], bool]:
        """All that is to be sent now, and whether there will be more."""
        batch: list[Plain] = []
        more = True
        try:
            event = self._outbox.get(timeout=TICK) if self._load else self._outbox.get_nowait()
            while event is not None:
                batch.append(event)
                event = self._outbox.get_nowait()
            more = False
        except Empty:
            if os.getppid() != self._parent:  # a process that forked from the app may hold the pipe open
                os._exit(0)
        load = replace(self._engine.load(), running=0, waiting=0)  # the app counts for itself
        if load != self._load:
            self._load = load
            # First: whoever hears that something is over may ask for the load at once.
            batch.insert(0, pack(load))
        return batch, more


if __name__ == "__main__":
    main()
