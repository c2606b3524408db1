"""Splits an answer's text into what OpenAI's API keeps apart: reasoning, content, tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from adapters.local.json_text import JSONTail
from adapters.local.text import held_back
from adapters.local.tools import ToolCall, ToolFormat, unfinished_call
from adapters.local.tracing import Places, Scored, split

__all__ = ["THINK", "AnswerReader", "Part", "Reader"]

THINK = ("<think>", "</think>")
"""The marks around the reasoning of most models that reason."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an answer.

    Attributes:
        kind: "call" begins a call, "arguments" continues the call that began last.
        text: Of content, reasoning or arguments.
        call: Set if and only if `kind` is "call"; its arguments are all of them, unless "arguments" follow.
        places: Of content: where it stood in the answer, as long as the answer is read.
        scores: Of content: its tokens, if their probabilities were asked for. A token whose text comes in
            several parts is in the last of them, or in none (see `hearing.Ended`).
    """

    kind: Literal["content", "reasoning", "call", "arguments"]
    text: str = ""
    call: ToolCall | None = None
    places: Places = field(default=(), compare=False, repr=False)
    scores: tuple[Scored, ...] = field(default=(), compare=False, repr=False)


class AnswerReader(Protocol):
    """Reads one answer as it comes."""

    @property
    def done(self) -> bool:
        """Whether nothing more can come that would be handed on."""
        ...

    @property
    def thinking(self) -> bool | None:
        """Whether what came last is reasoning; None: too early to tell."""
        ...

    def passes(self, text: str) -> bool:
        """Whether more text is content as it is, all of it; if so, it counts as fed, and else it is to be.

        Most of an answer is, and this is the short way: `feed` would give the same.
        """
        ...

    def feed(self, text: str) -> list[Part]:
        """What the text so far makes certain and was not given before."""
        ...

    def end(self, *, cut_off: bool = False) -> list[Part]:
        """The rest, once the answer is over.

        Args:
            cut_off: It was not at its end: a call that has begun is given as far as it goes.
        """
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
        calls_only: A grammar holds the answer to calls: whatever is none is no content either.
    """

    def __init__(
        self,
        *,
        thoughts: tuple[str, str] | None = None,
        thinking: bool = False,
        tools: ToolFormat | None = None,
        most_calls: int | None = None,
        live: int | None = None,
        calls_only: bool = False,
    ) -> None:
        self._thoughts = thoughts
        self._calls_only = calls_only
        self._cut_off = False
        self._read = 0  # characters of the answer that are read or in the buffer
        self._tools = tools
        self._most_calls = most_calls
        self._live = live
        self._buffer = ""
        self._calls = 0
        self._json = JSONTail()
        self._tails: list[str] = []
        self._trims = thoughts is not None or tools is not None
        self._space = ""  # white space that is shown if text follows
        self._space_places: Places = ()
        self._said = self._called = self._thought = False
        self._state: Literal["start", "think", "text", "call", "arguments", "tail"] = "text"
        if self._trims:
            self._state = "start"
        if thinking and thoughts is not None:
            self._state = "think"
        self._firsts = () if tools is None else tuple({mark[0] for mark in tools.marks})

    @property
    def done(self) -> bool:
        """See `AnswerReader`."""
        return self._most_calls is not None and self._calls >= self._most_calls and self._state != "arguments"

    @property
    def thinking(self) -> bool | None:
        """See `AnswerReader`."""
        if self._state == "start" and self._thoughts is not None:
            return None
        return self._state == "think"

    def feed(self, text: str) -> list[Part]:
        """See `AnswerReader`."""
        if self.passes(text):
            return [Part("content", text, places=((self._read - len(text), len(text)),))]
        self._read += len(text)
        self._buffer += text
        return self._drain(end=False)

    def passes(self, text: str) -> bool:
        """See `AnswerReader`."""
        if not self._flows(text):
            return False
        self._read += len(text)
        self._called = False
        return True

    def _flows(self, text: str) -> bool:
        if self._state != "text" or self._buffer or self._calls_only or not text or self.done:
            return False
        if self._trims and (self._space or not self._said or text[-1].isspace()):
            return False
        return not any(first in text for first in self._firsts)

    def end(self, *, cut_off: bool = False) -> list[Part]:
        """See `AnswerReader`."""
        self._cut_off = cut_off
        parts = self._drain(end=True)
        return parts if self.done else [*parts, *self._content("", last=True)]

    def _drain(self, *, end: bool) -> list[Part]:
        parts: list[Part] = []
        while self._buffer and not self.done:
            state, size = self._state, len(self._buffer)
            parts += self._step(end=end)
            if self._state == state and len(self._buffer) == size:
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
        """What of a text can be shown now. The text is what was taken from the buffer last."""
        if self._calls_only:
            return ()
        places: Places = ((self._read - len(self._buffer) - len(text), len(text)),)
        if self._trims:
            text, places = self._space + text, self._space_places + places
            if not self._said:
                kept = text.lstrip()
                _, places = split(places, len(text) - len(kept))
                text = kept
            shown = text if last and not self._called else text.rstrip()
            places, self._space_places = split(places, len(shown))
            text, self._space = shown, text[len(shown) :]
        if not text:
            return ()
        self._said, self._called = True, False
        return (Part("content", text, places=places),)

    # Calls

    def _call(self, *, end: bool) -> Sequence[Part]:
        if self._tools is None:
            return ()
        cut = self._tools.cut(self._buffer, end=end)
        if cut is None:
            return self._begun(self._tools)
        text, self._buffer = self._buffer[:cut], self._buffer[cut:]
        calls = self._tools.read(text)
        if calls is None and self._cut_off and not self._buffer:
            calls = unfinished_call(self._tools, text)
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
