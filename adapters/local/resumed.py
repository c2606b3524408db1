"""Reads the rest of an answer whose beginning another model gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adapters.local.marking import marks_of
from adapters.local.plan import refuse
from adapters.local.reading import AnswerReader, Part

__all__ = ["Resumed", "borders_in"]


class Resumed:
    """Reads on where a beginning ends. Fulfils `AnswerReader`.

    The reader is fed the beginning first, so that it is in the very state in which it would be if the model
    had written that itself: a stop string, a mark or white space may stand across the seam. What it shows of
    the beginning, then or later, is not shown again.

    Args:
        reader: Reads the answer.
        header: What the format puts before the beginning; empty in most.
        prefix: The beginning.
        model: For errors.

    Raises:
        ModelHTTPError: 400, if in this model's format the beginning means something else than text.
    """

    def __init__(self, reader: AnswerReader, header: str, prefix: str, model: str) -> None:
        self._reader = reader
        self._due = prefix  # what of the beginning the reader will show yet
        parts = reader.feed(header + prefix)
        if reader.done or self._without_due(parts):
            refuse(model, "what the answer begins with is no plain text to this model")

    @property
    def done(self) -> bool:
        """See `AnswerReader`."""
        return self._reader.done

    @property
    def thinking(self) -> bool | None:
        """See `AnswerReader`."""
        return self._reader.thinking

    def passes(self, text: str) -> bool:
        """See `AnswerReader`."""
        return not self._due and self._reader.passes(text)

    def feed(self, text: str) -> list[Part]:
        """See `AnswerReader`."""
        return self._without_due(self._reader.feed(text))

    def end(self, *, cut_off: bool = False) -> list[Part]:
        """See `AnswerReader`."""
        return self._without_due(self._reader.end(cut_off=cut_off))

    def _without_due(self, parts: Sequence[Part]) -> list[Part]:
        if not self._due:
            return [*parts]
        shown = []
        for part in parts:
            if part.kind != "content":
                self._due = ""
                shown.append(part)
            elif text := self._new(part.text):
                shown.append(replace(part, text=text))
        return shown

    def _new(self, text: str) -> str:
        """What of a text is not the beginning's; readers leave out white space at its very start."""
        for due in (self._due, self._due.lstrip()):
            if due.startswith(text):
                self._due = due[len(text) :]
                return ""
            if text.startswith(due):
                self._due = ""
                return text[len(due) :]
        self._due = ""
        return text


def borders_in(prefix: str, control: frozenset[str]) -> tuple[int, ...]:
    """The places in a beginning across which no token goes: it is text, whatever it looks like."""
    marks = marks_of(control)
    if not marks.texts_in(prefix):
        return ()
    stand_ins = marks.stand_ins(prefix)
    return marks.taken_out(str(marks.put(prefix, stand_ins)), stand_ins)[1]
