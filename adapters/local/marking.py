"""Keeps a caller's texts from being taken for control tokens.

A rendered chat is one text, in which the template's control tokens and whatever users, tools and documents
say stand side by side: `<|im_end|>` in a question would end it. So the first character of whatever looks like
a control token in a caller's text is replaced by a stand-in before the chat is rendered. A stand-in is one
character as well, which no template knows: lengths, spaces and comparisons stay as they are. Afterwards it
shows where the rendered chat has text that must not become a token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

__all__ = ["Marks", "marks_of"]

#: A private area of Unicode that hardly anybody uses.
_STAND_INS = range(0xF_E000, 0xF_FFF0)
#: Real vocabularies stay far below: some thousand control tokens of some twenty characters each.
_MOST_FIRSTS = 256
_LONGEST_PREFIX = 64
_MOST_PREFIXES = 1_000_000


class Marks:
    """The texts of one vocabulary's control tokens, to be found in other texts.

    Args:
        control: Texts of two characters or more.
    """

    def __init__(self, control: frozenset[str]) -> None:
        self._control = control
        self._sizes: dict[str, tuple[int, ...]] = {}
        for start in {text[:2] for text in control}:
            sizes = {len(text) for text in control if text.startswith(start)}
            self._sizes[start] = tuple(sorted(sizes, reverse=True))
        starts = sorted(self._sizes)
        # A lookahead finds texts that overlap, too.
        self._start = re.compile(f"(?=({'|'.join(map(re.escape, starts))}))") if starts else None
        lengths = [min(len(text) - 1, _LONGEST_PREFIX) for text in control]
        few = sum(lengths) <= _MOST_PREFIXES
        self._longest = max(lengths, default=0) if few else 0
        self._prefixes = {
            text[: size + 1] for text in control for size in range(min(len(text) - 1, self._longest))
        }
        self._firsts = sorted({text[0] for text in control})[:_MOST_FIRSTS]

    def texts_in(self, value: object) -> set[str]:
        """The control tokens whose texts stand in a value, or in something inside it.

        A text that ends like the beginning of one counts, as that beginning: what is put behind it may
        complete it.
        """
        found: set[str] = set()

        def look(text: str) -> str:
            found.update(what for _, what in self._found(text))
            return text

        _mapped(value, look)
        return found

    def put(self, value: object, stand_ins: Mapping[str, str], only: frozenset[str] | None = None) -> object:
        """A copy of a value with stand-ins in its texts.

        Args:
            value: Texts, lists and mappings; anything else stays as it is.
            stand_ins: For each first character, what to put in its place (see `stand_ins`).
            only: Which texts to mark; None: all.
        """

        def mark(text: str) -> str:
            places = [place for place, what in self._found(text) if only is None or what in only]
            if not places:
                return text
            characters = [*text]
            for place in places:
                characters[place] = stand_ins.get(characters[place], characters[place])
            return "".join(characters)

        return _mapped(value, mark)

    def stand_ins(self, *texts: str) -> dict[str, str]:
        """Stand-ins that occur in none of these texts."""
        free = (chr(code) for code in _STAND_INS if not any(chr(code) in text for text in texts))
        return dict(zip(self._firsts, free, strict=False))

    def taken_out(self, text: str, stand_ins: Mapping[str, str]) -> tuple[str, tuple[int, ...]]:
        """A rendered text as it should be, and the places across which no token may go."""
        for mark in stand_ins.values():  # a template may write JSON in ASCII
            text = text.replace(json.dumps(mark)[1:-1], mark)
        restored = text.translate({ord(mark): first for first, mark in stand_ins.items()})
        marked = re.finditer(f"[{''.join(stand_ins.values())}]", text)
        return restored, tuple(one.end() for one in marked if self._at(restored, one.start()))

    def _found(self, text: str) -> Iterator[tuple[int, str]]:
        """Where control tokens' texts begin, and which: the longest."""
        if self._start is None:
            return
        for start in self._start.finditer(text):
            what = self._at(text, start.start())
            if what is not None:
                yield start.start(), what
        for size in range(1, min(self._longest, len(text)) + 1):
            if (end := text[-size:]) in self._prefixes:
                yield len(text) - size, end

    def _at(self, text: str, place: int) -> str | None:
        for size in self._sizes.get(text[place : place + 2], ()):
            if (what := text[place : place + size]) in self._control:
                return what
        return None


def _mapped(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped(key, change): _mapped(one, change) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_mapped(one, change) for one in value]
    return value


@lru_cache(maxsize=16)
def marks_of(control: frozenset[str]) -> Marks:
    """The marks of a vocabulary, made once."""
    return Marks(control)
