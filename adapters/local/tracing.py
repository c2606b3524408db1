"""Which tokens the content of an answer was made of.

What reads an answer says of every piece of content where in the answer's text it stood. Tokens are not
characters: one may hold the end of a thought and the first word of the content, or a part of a character.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from adapters.local.engine import Score

__all__ = ["ELSEWHERE", "Places", "Scored", "Trace", "split"]

Places: TypeAlias = tuple[tuple[int, int], ...]
"""Where the parts of a text stood in the answer: the first character of each, and its length."""

ELSEWHERE = -1
"""Instead of a first character: this part is no text of the model's."""


def split(places: Places, size: int) -> tuple[Places, Places]:
    """The places of the first `size` characters, and of the rest."""
    if len(places) == 1:  # nearly always
        ((start, length),) = places
        if size >= length:
            return places, ()
        if size <= 0:
            return (), places
    first: list[tuple[int, int]] = []
    for number, (start, length) in enumerate(places):
        if length > size:
            begun = ((start, size),) if size else ()
            rest = (start if start == ELSEWHERE else start + size, length - size)
            return (*first, *begun), (rest, *places[number + 1 :])
        first.append((start, length))
        size -= length
    return tuple(first), ()


@dataclass(frozen=True, slots=True)
class Scored:
    """A token of the content, as far as it can be seen in it, and how likely it was."""

    data: bytes
    score: Score


@dataclass(frozen=True, slots=True)
class _Token:
    """A token and the characters that it has a part in, from `start` up to `end`."""

    scored: Scored
    start: int
    end: int
    begun: bool
    open: bool

    def seen(self, characters: set[int]) -> Scored | None:
        """The token as far as these characters show it; None if they do not."""
        shown = [place in characters for place in range(self.start, self.end)]
        if all(shown):
            return self.scored
        if not any(shown):
            return None
        parts = self._parts()
        if len(parts) != len(shown):  # its bytes are no text: they cannot be told apart
            return self.scored
        data = b"".join(part for part, can_be in zip(parts, shown, strict=True) if can_be)
        return Scored(data, self.scored.score)

    def _parts(self) -> list[bytes]:
        """Its bytes, by character."""
        data = self.scored.data
        size = len(data) - len(data.lstrip(_CONTINUATIONS)) if self.begun else 0
        first, rest = data[:size], data[size:]
        text, used = codecs.utf_8_decode(rest, "replace", not self.open)
        last = rest[used:]
        return [*([first] if first else []), *(char.encode() for char in text), *([last] if last else [])]


_CONTINUATIONS = bytes(range(0x80, 0xC0))


class Trace:
    """Follows the tokens of one answer to its content."""

    def __init__(self) -> None:
        self._tokens: deque[_Token] = deque()
        self._seen: set[int] = set()
        self._characters = 0
        self._open = False

    def add(self, data: bytes, score: Score, completed: int, *, unfinished: bool) -> None:
        """The next token.

        Args:
            data: Its bytes.
            score: How likely it was.
            completed: Characters that are whole with it.
            unfinished: Whether a character is begun and not whole.
        """
        if data:
            end = self._characters + completed + unfinished
            token = _Token(Scored(data, score), self._characters, end, self._open, unfinished)
            self._tokens.append(token)
        self._characters += completed
        self._open = unfinished

    def show(self, places: Iterable[tuple[int, int]]) -> tuple[Scored, ...]:
        """Characters that are content.

        Returns:
            The tokens of which no more can be seen than has been, in order, each once.
        """
        last = 0
        for start, length in places:
            if start != ELSEWHERE:
                last = start + length
                self._seen.update(range(start, last))
        found = []
        while self._tokens and self._tokens[0].end <= last:
            found.append(self._next())
        return tuple(one for one in found if one is not None)

    def end(self) -> tuple[Scored, ...]:
        """The rest: no more characters are content."""
        found = []
        while self._tokens:
            found.append(self._next())
        return tuple(one for one in found if one is not None)

    def _next(self) -> Scored | None:
        token = self._tokens.popleft()
        seen = token.seen(self._seen)
        # A character can be shared with the next token.
        self._seen.difference_update(range(token.start, token.end - 1))
        return seen
