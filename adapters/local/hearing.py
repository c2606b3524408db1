"""Carries an answer from the engine's thread to the event loop that waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from adapters.local.engine import Finish, Score
from adapters.local.reading import AnswerReader, Part
from adapters.local.text import Characters
from adapters.local.tracing import Scored, Trace
from adapters.local.waking import hurry, wake
from router.errors import ModelError

__all__ = ["Ended", "Heard", "Hearing", "Started"]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Started:
    """The engine began with the prompt; `cached_tokens` of it were computed before."""

    prompt_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer is complete.

    Attributes:
        finish: Why.
        completion_tokens: Of all that was generated.
        reasoning_tokens: Of them, those of the reasoning and its marks.
        scores: Tokens of the content of which a part was held back to the end and is not shown.
    """

    finish: Finish
    completion_tokens: int
    reasoning_tokens: int = 0
    scores: tuple[Scored, ...] = ()


Heard = Started | Part | Ended | ModelError
"""What an engine can tell."""


class Hearing:
    """An `engine.Listener` whose news an event loop can await.

    Everything is read (stop strings, tool calls) on the engine's thread, which must know at once when an
    answer is over. The loop is woken once for all that has come since it last looked.

    Args:
        reader: Reads the answer.
        abandon: Called when the loop turns out to be closed.
        arrived: Set on the loop when there is something to take; several may share one.
    """

    def __init__(self, reader: AnswerReader, abandon: Callable[[], None], arrived: asyncio.Event) -> None:
        self._characters = Characters()
        self._reader = reader
        self._trace = Trace()
        self._scored = False
        self._reasoning = self._undecided = 0
        self._abandon = abandon
        self._loop = asyncio.get_running_loop()
        self._arrived = arrived
        self._guard = threading.Lock()
        self._news: list[Heard | str] = []  # text: content, and nothing else to be said of it
        self._shown = False

    # On the engine's thread

    def started(self, prompt_tokens: int, cached_tokens: int = 0) -> None:
        """See `engine.Listener`."""
        self._tell([Started(prompt_tokens, cached_tokens)])

    def piece(self, text: bytes, score: Score | None = None, /) -> bool:
        """See `engine.Listener`."""
        characters = self._characters.feed(text)
        reader = self._reader
        if score is not None:
            self._scored = True
            self._trace.add(text, score, len(characters), unfinished=self._characters.unfinished)
        elif not self._undecided and reader.passes(characters):  # nearly always
            self._tell((characters,))
            return True
        before = reader.thinking
        if characters and (parts := reader.feed(characters)):
            self._tell(self._traced(parts) if self._scored else parts)
        after = reader.thinking
        if before is not False or after is not False or self._undecided:
            self._count(before, after)
        return not reader.done

    def finished(self, finish: Finish, completion_tokens: int) -> None:
        """See `engine.Listener`."""
        parts = self._traced(self._reader.end(cut_off=finish == "length"))
        self._tell([*parts, Ended(finish, completion_tokens, self._reasoning, self._trace.end())])

    def _traced(self, parts: Sequence[Part]) -> Sequence[Part]:
        """Gives content its tokens."""
        if not self._scored:
            return parts
        return [
            replace(part, scores=self._trace.show(part.places)) if part.kind == "content" else part
            for part in parts
        ]

    def _count(self, before: bool | None, after: bool | None) -> None:
        """Counts one token, by what was read before it and with it."""
        if before:
            self._reasoning += 1
        elif after is None:
            self._undecided += 1
        else:
            if after:
                self._reasoning += 1 + self._undecided
            self._undecided = 0

    def failed(self, error: ModelError) -> None:
        """See `engine.Listener`."""
        self._tell([error])

    def _tell(self, news: Sequence[Heard | str]) -> None:
        if not news:
            return
        with self._guard:
            asleep = not self._news
            self._news += news
        if asleep:
            # Asked for when the loop turns out to be closed, and not before: `leave` may come first.
            wake(self._loop, self._arrived.set, lambda: self._abandon())  # noqa: PLW0108
        words = isinstance(news[-1], str | Part)
        if not self._shown or not words:  # the first word, and the end, are waited for
            self._shown = words
            hurry()

    # On the event loop

    def leave(self) -> None:
        """Lets go of whoever would have been told that the loop was closed: the answer is over for them."""
        self._abandon = _nothing

    def take(self) -> list[Heard]:
        """What has come since the last call; pieces of one kind are put together."""
        with self._guard:
            news, self._news = self._news, []
        return _put_together(news)


def _put_together(news: list[Heard | str]) -> list[Heard]:
    found: list[Heard] = []
    for heard in news:
        one = Part("content", heard) if isinstance(heard, str) else heard
        last = found[-1] if found else None
        if isinstance(one, Part) and isinstance(last, Part) and one.kind == last.kind != "call":
            found[-1] = Part(one.kind, last.text + one.text, scores=last.scores + one.scores)
        else:
            found.append(one)
    return found
