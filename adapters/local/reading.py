"""Splits an answer's text into what OpenAI's API keeps apart: reasoning, content, tool calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from adapters.local.text import held_back
from adapters.local.tools import ToolCall, ToolFormat

__all__ = ["Part", "Reader"]

_THINK, _THOUGHT = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an answer; `call` is set if and only if `kind` is "call"."""

    kind: Literal["content", "reasoning", "call"]
    text: str = ""
    call: ToolCall | None = None


class Reader:
    """Reads one answer as it comes.

    Args:
        thinks: Whether the model marks its reasoning with `<think>`.
        thinking: Whether the prompt has opened the reasoning already.
        tools: How the model writes tool calls; None: it may not call any.
        most_calls: Further calls are not read; None: any number.
    """

    def __init__(
        self,
        *,
        thinks: bool = False,
        thinking: bool = False,
        tools: ToolFormat | None = None,
        most_calls: int | None = None,
    ) -> None:
        self._tools = tools
        self._most_calls = most_calls
        self._buffer = ""
        self._calls = 0
        self._mute_space = True  # white space before the first content is the template's, not the answer's
        self._state: Literal["start", "think", "text", "call"] = "text"
        if thinking:
            self._state = "think"
        elif thinks or tools is not None:
            self._state = "start"
        else:
            self._mute_space = False
        self._thinks = thinks

    @property
    def done(self) -> bool:
        """Whether nothing more can come that would be handed on."""
        return self._most_calls is not None and self._calls >= self._most_calls

    def feed(self, text: str) -> list[Part]:
        """What the text so far makes certain and was not given before."""
        self._buffer += text
        parts: list[Part] = []
        while not self.done:
            before = (self._state, len(self._buffer))
            parts += self._advance(end=False)
            if (self._state, len(self._buffer)) == before:
                break
        return parts

    def end(self) -> list[Part]:
        """The rest, once the answer is over."""
        parts: list[Part] = []
        while self._buffer and not self.done:
            before = (self._state, len(self._buffer))
            parts += self._advance(end=True)
            if (self._state, len(self._buffer)) == before:
                break
        return parts

    def _advance(self, *, end: bool) -> Iterable[Part]:
        if self._state == "start":
            return self._start(end=end)
        if self._state == "think":
            return self._think(end=end)
        if self._state == "text":
            return self._text(end=end)
        return self._call(end=end)

    def _start(self, *, end: bool) -> Iterable[Part]:
        text = self._buffer.lstrip()
        if self._thinks and text.startswith(_THINK):
            self._buffer = text[len(_THINK) :]
            self._state = "think"
        elif self._thinks and not end and _THINK.startswith(text):
            pass
        elif self._tools is not None and (bare := self._tools.bare(text)) is not False and text:
            if bare or end:
                self._state = "call"
        elif text:
            self._state = "text"
        return ()

    def _think(self, *, end: bool) -> Iterable[Part]:
        reasoning, closed, rest = self._buffer.partition(_THOUGHT)
        if closed:
            self._buffer, self._state, self._thinks = rest, "start", False
            last = self._reasoning(reasoning.rstrip())
            self._mute_space = True
            return last
        certain = len(reasoning)
        if not end:  # space before the closing mark belongs to neither side
            certain = len(reasoning[: certain - held_back(reasoning, [_THOUGHT])].rstrip())
        self._buffer = reasoning[certain:]
        return self._reasoning(reasoning[:certain])

    def _reasoning(self, text: str) -> Iterable[Part]:
        if self._mute_space:
            text = text.lstrip()
        if not text:
            return ()
        self._mute_space = False
        return (Part("reasoning", text),)

    def _text(self, *, end: bool) -> Iterable[Part]:
        marks = self._tools.marks if self._tools is not None else ()
        found = [place for mark in marks if (place := self._buffer.find(mark)) >= 0]
        if found:
            text, self._buffer = self._buffer[: min(found)].rstrip(), self._buffer[min(found) :]
            self._state = "call"
            return self._content(text)
        certain = len(self._buffer)
        if not end and marks:
            # Space before a call is its own; space before other text is shown with that text.
            certain -= held_back(self._buffer, marks)
            certain = len(self._buffer[:certain].rstrip())
        text, self._buffer = self._buffer[:certain], self._buffer[certain:]
        return self._content(text)

    def _content(self, text: str) -> Iterable[Part]:
        if self._mute_space:
            text = text.lstrip()
        if not text:
            return ()
        self._mute_space = False
        return (Part("content", text),)

    def _call(self, *, end: bool) -> Iterable[Part]:
        if self._tools is None:
            return ()
        cut = self._tools.cut(self._buffer, end=end)
        if cut is None:
            return ()
        text, self._buffer = self._buffer[:cut], self._buffer[cut:]
        self._state = "text"
        calls = self._tools.read(text)
        if calls is None:
            return self._content(text)
        if self._most_calls is not None:
            calls = calls[: self._most_calls - self._calls]
        self._calls += len(calls)
        self._mute_space = True
        return tuple(Part("call", call=call) for call in calls)
