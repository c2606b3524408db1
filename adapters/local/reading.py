"""Splits an answer's text into what OpenAI's API keeps apart: reasoning, content, tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from adapters.local.json_text import JSONTail
from adapters.local.text import StopText, held_back
from adapters.local.tools import ToolCall, ToolFormat

__all__ = ["THINK", "AnswerReader", "Part", "Reader", "Stopping"]

THINK = ("<think>", "</think>")
"""The marks around the reasoning of most models that reason."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an answer.

    Attributes:
        kind: "call" begins a call, "arguments" continues the call that began last.
        text: Of content, reasoning or arguments.
        call: Set if and only if `kind` is "call"; its arguments are all of them, unless "arguments" follow.
    """

    kind: Literal["content", "reasoning", "call", "arguments"]
    text: str = ""
    call: ToolCall | None = None


class AnswerReader(Protocol):
    """Reads one answer as it comes."""

    @property
    def done(self) -> bool:
        """Whether nothing more can come that would be handed on."""
        ...

    def feed(self, text: str) -> list[Part]:
        """What the text so far makes certain and was not given before."""
        ...

    def end(self) -> list[Part]:
        """The rest, once the answer is over."""
        ...


class Reader:
    """Reads answers in which thoughts and calls stand between marks. Fulfils `AnswerReader`.

    Where there can be thoughts or calls, white space around them is the template's and not the answer's: it
    is shown only between two texts. A call is handed on once it is known to be well-formed, else it is text.
    One that grows long is handed on as it comes, if that is wished: whoever waits for it sees something.

    Args:
        thoughts: The marks around the model's reasoning; None: it has none.
        thinking: Whether the prompt has opened the reasoning already.
        tools: How the model writes tool calls; None: it may not call any.
        most_calls: Further calls are not read; None: any number.
        live: Characters of arguments after which a call is handed on before it is complete; None: never.
    """

    def __init__(
        self,
        *,
        thoughts: tuple[str, str] | None = None,
        thinking: bool = False,
        tools: ToolFormat | None = None,
        most_calls: int | None = None,
        live: int | None = None,
    ) -> None:
        self._thoughts = thoughts
        self._tools = tools
        self._most_calls = most_calls
        self._live = live
        self._buffer = ""
        self._calls = 0
        self._json = JSONTail()
        self._tails: list[str] = []
        self._trims = thoughts is not None or tools is not None
        self._space = ""  # white space that is shown if text follows
        self._said = self._called = self._thought = False
        self._state: Literal["start", "think", "text", "call", "arguments", "tail"] = "text"
        if self._trims:
            self._state = "start"
        if thinking and thoughts is not None:
            self._state = "think"

    @property
    def done(self) -> bool:
        """See `AnswerReader`."""
        return self._most_calls is not None and self._calls >= self._most_calls and self._state != "arguments"

    def feed(self, text: str) -> list[Part]:
        """See `AnswerReader`."""
        self._buffer += text
        return self._drain(end=False)

    def end(self) -> list[Part]:
        """See `AnswerReader`."""
        parts = self._drain(end=True)
        return parts if self.done else [*parts, *self._content("", last=True)]

    def _drain(self, *, end: bool) -> list[Part]:
        parts: list[Part] = []
        while self._buffer and not self.done:
            before = (self._state, len(self._buffer))
            parts += self._step(end=end)
            if (self._state, len(self._buffer)) == before:
                break
        return parts

    def _step(self, *, end: bool) -> Sequence[Part]:
        match self._state:
            case "start":
                return self._start(end=end)
            case "think":
                return self._think(end=end)
            case "text":
                return self._text(end=end)
            case "call":
                return self._call(end=end)
            case "arguments":
                return self._arguments()
            case "tail":
                return self._tail(end=end)

    def _start(self, *, end: bool) -> Sequence[Part]:
        text = self._buffer.lstrip()
        if self._thoughts is not None and text.startswith(self._thoughts[0]):
            self._buffer, self._state = text, "think"
        elif self._thoughts is not None and not end and self._thoughts[0].startswith(text):
            pass
        elif self._tools is not None and text and (bare := self._tools.bare(text)) is not False:
            if bare or end:
                self._state = "call"
        elif text or end:
            self._state = "text"
        return ()

    # Thoughts

    def _think(self, *, end: bool) -> Sequence[Part]:
        opening, closing = self._thoughts or THINK
        if not self._thought:  # a mark that the model repeats after the prompt's is none of its thoughts
            text = self._buffer.lstrip()
            if not end and opening.startswith(text):
                return ()
            self._buffer = text.removeprefix(opening)
        reasoning, closed, rest = self._buffer.partition(closing)
        if closed:
            self._buffer, self._state, self._thoughts = rest, "start", None
            return self._reasoning(reasoning.rstrip())
        certain = len(reasoning)
        if not end:  # space before the closing mark belongs to neither side
            certain = len(reasoning[: certain - held_back(reasoning, [closing])].rstrip())
        self._buffer = reasoning[certain:]
        return self._reasoning(reasoning[:certain])

    def _reasoning(self, text: str) -> Sequence[Part]:
        if not self._thought:
            text = text.lstrip()
        if not text:
            return ()
        self._thought = True
        return (Part("reasoning", text),)

    # Content

    def _text(self, *, end: bool) -> Sequence[Part]:
        marks = self._tools.marks if self._tools is not None else ()
        found = [place for mark in marks if (place := self._buffer.find(mark)) >= 0]
        if found:
            text, self._buffer = self._buffer[: min(found)], self._buffer[min(found) :]
            self._state = "call"
            return self._content(text)
        certain = len(self._buffer) - (0 if end else held_back(self._buffer, marks))
        text, self._buffer = self._buffer[:certain], self._buffer[certain:]
        return self._content(text)

    def _content(self, text: str, *, last: bool = False) -> Sequence[Part]:
        if self._trims:
            text = self._space + text
            if not self._said:
                text = text.lstrip()
            shown = text.rstrip()
            if last and not self._called:
                shown = text
            text, self._space = shown, text[len(shown) :]
        if not text:
            return ()
        self._said, self._called = True, False
        return (Part("content", text),)

    # Calls

    def _call(self, *, end: bool) -> Sequence[Part]:
        if self._tools is None:
            return ()
        cut = self._tools.cut(self._buffer, end=end)
        if cut is None:
            return self._begun(self._tools)
        text, self._buffer = self._buffer[:cut], self._buffer[cut:]
        calls = self._tools.read(text)
        if calls is None:
            self._state = "text"
            return self._content(text)
        self._state = "start"
        if self._most_calls is not None:
            calls = calls[: self._most_calls - self._calls]
        self._calls += len(calls)
        self._called = self._called or bool(calls)
        return tuple(Part("call", call=call) for call in calls)

    def _begun(self, tools: ToolFormat) -> Sequence[Part]:
        head = tools.head(self._buffer) if self._live is not None else None
        if head is None or self._live is None or len(self._buffer) - head.size < self._live:
            return ()
        self._buffer = self._buffer[head.size :]
        self._calls += 1
        self._called = True
        self._json = JSONTail()
        self._state = "arguments"
        return (Part("call", call=ToolCall(head.name, "")),)

    def _arguments(self) -> Sequence[Part]:
        text, used = self._json.feed(self._buffer)
        self._buffer = self._buffer[used:]
        if self._json.over and self._tools is not None:
            self._tails, self._state = [*self._tools.tails], "tail"
        return (Part("arguments", text),) if text else ()

    def _tail(self, *, end: bool) -> Sequence[Part]:
        """Drops what closes a call whose arguments were handed on."""
        while self._tails:
            text = self._buffer.lstrip()
            if text.startswith(self._tails[0]):
                self._buffer = text[len(self._tails[0]) :]
            elif not end and any(tail.startswith(text) for tail in self._tails):
                return ()
            del self._tails[0]
        self._state = "start"
        return ()


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

    @property
    def done(self) -> bool:
        """See `AnswerReader`."""
        return self._stops.stopped or self._ends.stopped or self._reader.done

    def feed(self, text: str) -> list[Part]:
        """See `AnswerReader`."""
        return self._cut(self._reader.feed(self._ends.feed(text)))

    def end(self) -> list[Part]:
        """See `AnswerReader`."""
        parts = self._cut([*self._reader.feed(self._ends.end()), *self._reader.end()])
        return [*parts, *self._held()]

    def _cut(self, parts: Sequence[Part]) -> list[Part]:
        found: list[Part] = []
        for part in parts:
            if self._stops.stopped:
                break
            if part.kind != "content":
                found += [*self._held(), part]
            elif shown := self._stops.feed(part.text):
                found.append(Part("content", shown))
        return found

    def _held(self) -> list[Part]:
        text = self._stops.end()
        return [Part("content", text)] if text else []
