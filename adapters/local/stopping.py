"""Ends answers at the texts that the caller, or the model's format, ends them with."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.local.reading import AnswerReader, Part
from adapters.local.text import StopText
from adapters.local.tracing import Places, split

__all__ = ["Stopping"]


class Stopping:
    """Ends an answer before the model does. Fulfils `AnswerReader`.

    Args:
        reader: Reads the answer.
        stops: Texts that end it where they stand in its content. Thoughts and calls are not looked at: a
            blank line in a thought is not the end that the caller meant.
        ends: Texts that end the model's turn, wherever they stand.
    """

    def __init__(self, reader: AnswerReader, stops: Sequence[str], ends: Sequence[str] = ()) -> None:
        self._reader = reader
        self._stops = StopText(stops)
        self._ends = StopText(ends)
        self._places: Places = ()  # of content that may begin a stop string

    @property
    def done(self) -> bool:
        """See `AnswerReader`."""
        return self._stops.stopped or self._ends.stopped or self._reader.done

    @property
    def thinking(self) -> bool | None:
        """See `AnswerReader`."""
        return self._reader.thinking

    def passes(self, text: str) -> bool:
        """See `AnswerReader`."""
        return self._ends.passes(text) and self._stops.passes(text) and self._reader.passes(text)

    def feed(self, text: str) -> list[Part]:
        """See `AnswerReader`."""
        return self._cut(self._reader.feed(self._ends.feed(text)))

    def end(self, *, cut_off: bool = False) -> list[Part]:
        """See `AnswerReader`."""
        rest = self._reader.feed(self._ends.end())
        return [*self._cut([*rest, *self._reader.end(cut_off=cut_off)]), *self._held()]

    def _cut(self, parts: Sequence[Part]) -> list[Part]:
        found: list[Part] = []
        for part in parts:
            if self._stops.stopped:
                break
            if part.kind != "content":
                found += [*self._held(), part]
                continue
            self._places += part.places
            found += self._content(self._stops.feed(part.text))
        return found

    def _held(self) -> Sequence[Part]:
        return self._content(self._stops.end())

    def _content(self, text: str) -> Sequence[Part]:
        places, self._places = split(self._places, len(text))
        return (Part("content", text, places=places),) if text else ()
