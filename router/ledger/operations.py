"""What the writer's thread can be asked for, and how its answers come back to where they are awaited."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from router.errors import RouterClosedError
from router.ledger.money import Refusal, to_usd
from router.limits.store import Ask

__all__ = [
    "Answer",
    "Answers",
    "Change",
    "Give",
    "Operation",
    "Reserve",
    "Settle",
    "Take",
    "Visit",
    "Withdraw",
    "ignore",
    "turn_away",
]

_log = logging.getLogger("router.ledger")


def ignore(_: object) -> None:
    """Takes an answer that nobody asked for."""


@dataclass(slots=True)
class Reserve:
    """Set an amount (attodollars) aside, if every budget has room for it.

    `waits`: where what others have set aside may come back, it is answered when that has happened, or can
    not happen any more, or it is withdrawn.
    """

    key: str
    model: str
    task: str
    units: int
    done: Callable[[Refusal | None], None] | asyncio.Future[Refusal | None]
    waits: bool = False


@dataclass(slots=True)
class Withdraw:
    """A reservation waits no longer. It is answered: perhaps it was granted at this very moment."""

    key: str
    done: Callable[[bool], None] = ignore


@dataclass(slots=True)
class Settle:
    """Put what was really spent (None: nothing) in the place of a reservation."""

    key: str
    model: str
    task: str
    units: int | None
    done: Callable[[bool], None] | asyncio.Future[bool]


@dataclass(slots=True)
class Take:
    """Let requests go to a model with limits, as many as all processes together may send."""

    ask: Ask
    done: Callable[[tuple[int, float]], None]


@dataclass(slots=True)
class Give:
    """Change what was taken at a Unix time: requests that are over, were not sent, or had other tokens."""

    model: str
    at: float
    over: int = 0
    requests: int = 0
    tokens: int = 0
    done: Callable[[bool], None] = ignore


@dataclass(slots=True)
class Visit:
    """Once all that was queued before is written: use the connection (None: that was all)."""

    work: Callable[[sqlite3.Connection], object] | None
    future: concurrent.futures.Future[object] = field(default_factory=concurrent.futures.Future)


Change: TypeAlias = Reserve | Withdraw | Settle | Take | Give
Operation: TypeAlias = Change | Visit
Answer: TypeAlias = Refusal | bool | tuple[int, float] | None


class Answers:
    """Collects the answers of one group, and wakes every waiting loop once.

    `call_soon_threadsafe` costs a system call and a wake-up of the loop; one for each of 32 answers would
    cost more than the transaction they wait for.
    """

    def __init__(self) -> None:
        self._loops: dict[asyncio.AbstractEventLoop, list[tuple[Change, Answer]]] = {}

    def add(self, operation: Change, answer: Answer) -> None:
        """Gives a callable its answer now; keeps a future's for `send`."""
        done = operation.done
        if isinstance(done, asyncio.Future):
            self._loops.setdefault(done.get_loop(), []).append((operation, answer))
            return
        try:
            done(answer)  # type: ignore[arg-type]  # each is answered by its own kind
        except Exception:  # noqa: BLE001 - a caller's mistake must not end the thread that all the others wait for
            _log.exception("a callback of the ledger failed")

    def send(self) -> list[Reserve]:
        """Sends what was kept.

        Returns the reservations granted to loops that were closed meanwhile: nobody has them.
        """
        lost: list[Reserve] = []
        for loop, answers in self._loops.items():
            try:
                loop.call_soon_threadsafe(_resolve, answers)
            except RuntimeError:  # the loop was closed
                lost += [asked for asked, answer in answers if isinstance(asked, Reserve) and answer is None]
        self._loops.clear()
        return lost


def turn_away(operation: Operation) -> None:
    """Answers an operation that came after the ledger was closed."""
    if isinstance(operation, Visit):
        operation.future.set_exception(RouterClosedError("the ledger is closed"))
        return
    answers = Answers()
    if isinstance(operation, Reserve):
        asked = to_usd(operation.units)
        answers.add(operation, Refusal(None, to_usd(0), asked, "ledger: it is closed"))
    elif isinstance(operation, Take):  # each process goes by its own count then
        answers.add(operation, (len(operation.ask.tokens), 0.0))
    else:
        answers.add(operation, answer=False)
    answers.send()


def _resolve(answers: Sequence[tuple[Change, Answer]]) -> None:
    for operation, answer in answers:
        future = operation.done
        if isinstance(future, asyncio.Future) and not future.done():
            future.set_result(answer)  # type: ignore[arg-type]  # as above
