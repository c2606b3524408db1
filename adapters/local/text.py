"""Text that may be shown: no broken characters, nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

__all__ = ["Characters", "StopText", "held_back"]


def held_back(text: str, marks: Sequence[str]) -> int:
    """How many characters at the text's end could be the beginning of a mark."""
    if not marks:
        return 0
    longest = max(map(len, marks), default=0)
    for size in range(min(longest - 1, len(text)), 0, -1):
        end = text[-size:]
        if any(mark.startswith(end) for mark in marks):
            return size
    return 0


class Characters:
    """Tokens' bytes to whole characters; one that never comes to its end is dropped."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        #: Whether a character is begun and not complete.
        self.unfinished = False

    def feed(self, data: bytes) -> str:
        """The characters that these bytes complete."""
        if not self.unfinished and data.isascii():
            return data.decode("ascii")
        text = self._decoder.decode(data)
        self.unfinished = bool(self._decoder.getstate()[0])
        return text


class StopText:
    """Ends a text at the first stop string, wherever the borders of its pieces are."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._firsts = tuple({stop[0] for stop in self._stops})
        self._held = ""
        self.stopped = False

    def passes(self, text: str) -> bool:
        """Whether nothing in a text can belong to a stop string: nearly always. It need not be fed then."""
        if self.stopped or self._held:
            return False
        return not self._firsts or not any(first in text for first in self._firsts)

    def feed(self, text: str) -> str:
        """What these characters make certain; nothing more once `stopped`."""
        if self.stopped:
            return ""
        if self.passes(text):
            return text
        self._held += text
        cut = min((place for stop in self._stops if (place := self._held.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            return self._released(cut)
        return self._released(len(self._held) - held_back(self._held, self._stops))

    def end(self) -> str:
        """What was held back and turned out to be no stop string."""
        return "" if self.stopped else self._released(len(self._held))

    def _released(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text
