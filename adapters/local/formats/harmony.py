"""Channels: how gpt-oss keeps thoughts, answers and calls apart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from adapters.local.grammar import Rules, alternatives, literal
from adapters.local.json_text import JSONTail, object_text, parsed
from adapters.local.reading import Part
from adapters.local.text import held_back
from adapters.local.tools import SECTION_HEAD, Head, Tool, ToolCall, arguments_rule, unfinished_call
from adapters.local.tracing import ELSEWHERE, Places

__all__ = [
    "AFTER_THOUGHTS",
    "BEGUN_THOUGHTS",
    "CLOSED_THOUGHTS",
    "NOT_IN_THOUGHTS",
    "Harmony",
    "HarmonyReader",
]

_START, _CHANNEL, _MESSAGE, _CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
#: What ends a message; the last two without a proper end, which the models forget now and then.
_ENDS = ("<|end|>", "<|return|>", "<|call|>", _START, _CHANNEL)
_ALL = (*_ENDS, _MESSAGE, _CONSTRAIN)

BEGUN_THOUGHTS = f"{_CHANNEL}analysis{_MESSAGE}"
"""What begins the reasoning, after the prompt."""
CLOSED_THOUGHTS = _ENDS[0]
"""What ends it."""
AFTER_THOUGHTS = f"{_START}assistant"
"""What follows it, before the channel of the answer."""
NOT_IN_THOUGHTS = frozenset(_ENDS[1:])
"""What would end it in another way."""
#: What a header can begin with; an answer that begins otherwise has none.
_OPENINGS = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, "to=", "assistant")
#: Characters of a header; a longer one is none.
_LONGEST_HEADER = 400


class Harmony:
    """`<|channel|>commentary to=functions.name <|constrain|>json<|message|>{...}<|call|>`.

    See `ToolFormat`; what it says of reading is left to `HarmonyReader`. A call ends the turn, so there is
    never more than one.
    """

    lead: str = f"{_CHANNEL}final{_MESSAGE}"
    marks: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()
    visible: frozenset[str] = frozenset(_ALL)

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    def bare(self, start: str) -> bool | None:
        """Never: calls have headers."""
        return False if start else None

    def cut(self, text: str, *, end: bool) -> int | None:
        """See `ToolFormat`: a message's whole body."""
        return len(text) if end else None

    def called(self, header: str) -> str | None:
        """The tool that a message with this header calls; None: none, or one that nobody offered."""
        found = re.search(r"to=(?:functions\.)?([^\s<]+)", header)
        return found[1] if found and found[1] in self._tools else None

    def read(self, text: str) -> list[ToolCall] | None:
        """See `ToolFormat`."""
        header, _, body = text.partition(_MESSAGE)
        name, arguments = self.called(header), object_text(parsed(body.strip()))
        return None if name is None or arguments is None else [ToolCall(name, arguments)]

    def head(self, text: str) -> Head | None:
        """See `ToolFormat`."""
        header, mark, body = text.partition(_MESSAGE)
        name = self.called(header)
        if name is None or not mark or not body.lstrip().startswith("{"):
            return None
        return Head(name, len(text) - len(body.lstrip()))

    def grammar(self, rules: Rules, tools: Sequence[Tool], *, several: bool) -> str:
        """See `ToolFormat`."""
        del several  # the format has no way to write a second one
        bodies = []
        for tool in tools:
            header = f"{_CHANNEL}commentary to=functions.{tool.name} {_CONSTRAIN}json{_MESSAGE}"
            bodies.append(f"{literal(header)} {arguments_rule(rules, tool)}")
        return alternatives(bodies)

    def section(self, definitions: Sequence[object]) -> str:
        """The definitions as they are, and where calls belong."""
        listing = "\n".join(json.dumps(definition, ensure_ascii=False) for definition in definitions)
        return (
            f"{SECTION_HEAD}\n\n## functions\n\n{listing}\n\n"
            "Calls to these tools must go to the commentary channel: 'functions'."
        )


class HarmonyReader:
    """Reads one answer of channels as it comes. Fulfils `reading.AnswerReader`.

    `analysis` is reasoning, `final` is content, and so is `commentary` that calls nothing: the preamble that
    the model means the user to see. Calls are read from any channel, as the models write them in both.

    Args:
        form: Which tools may be called.
        most_calls: Further calls are not read; None: any number.
        live: Characters of arguments after which a call is handed on before it is complete; None: never.
        thinking: Whether the prompt has begun the reasoning already.
        calls_only: See `reading.Reader`.
    """

    def __init__(
        self,
        form: Harmony,
        *,
        most_calls: int | None = None,
        live: int | None = None,
        thinking: bool = False,
        calls_only: bool = False,
    ) -> None:
        self._form = form
        self._calls_only = calls_only
        self._cut_off = False
        self._read = self._at = 0  # characters read; where the piece begins that is being looked at
        self._most_calls = most_calls
        self._live = live
        self._buffer = ""
        self._header = ""
        self._state: Literal["header", "content", "reasoning", "call", "arguments"] = "header"
        if thinking:
            self._state = "reasoning"
        self._json = JSONTail()
        self._calls = 0
        self._said = False
        self._apart = False

    @property
    def done(self) -> bool:
        """See `reading.AnswerReader`."""
        return self._most_calls is not None and self._calls >= self._most_calls and self._state == "header"

    @property
    def thinking(self) -> bool | None:
        """See `reading.AnswerReader`."""
        return None if self._state == "header" else self._state == "reasoning"

    def passes(self, text: str) -> bool:  # noqa: ARG002 - any text may go on to a channel's mark
        """See `reading.AnswerReader`."""
        return False

    def feed(self, text: str) -> list[Part]:
        """See `reading.AnswerReader`."""
        self._buffer += text
        self._read += len(text)
        return self._drain(end=False)

    def end(self, *, cut_off: bool = False) -> list[Part]:
        """See `reading.AnswerReader`."""
        self._cut_off = cut_off
        return self._drain(end=True)

    def _drain(self, *, end: bool) -> list[Part]:
        parts: list[Part] = []
        while self._buffer and not self.done:
            before = (self._state, len(self._buffer))
            parts += self._read_header(end=end) if self._state == "header" else self._read_body(end=end)
            if (self._state, len(self._buffer)) == before:
                break
        return parts

    def _read_header(self, *, end: bool) -> list[Part]:
        header, mark, body = self._buffer.partition(_MESSAGE)
        if mark and len(header) <= _LONGEST_HEADER:
            self._header, self._buffer = header, body
            self._state = self._kind(header)
            self._json = JSONTail()
            self._apart = self._said
            return []
        start = self._buffer.lstrip()
        begins = any(start.startswith(known) or known.startswith(start) for known in _OPENINGS)
        if not begins or len(header) > _LONGEST_HEADER:
            self._state = "content"  # no header at all: what a model says is not lost
        elif end:
            self._buffer = ""  # cut off before it said anything
        return []

    def _kind(self, header: str) -> Literal["content", "reasoning", "call"]:
        if self._form.called(header) is not None:
            return "call"
        channel = re.search(r"<\|channel\|>\s*(\w+)", header)
        return "reasoning" if channel and channel[1] == "analysis" else "content"

    def _read_body(self, *, end: bool) -> list[Part]:
        self._at = self._read - len(self._buffer)
        places = [(place, mark) for mark in _ENDS if (place := self._buffer.find(mark)) >= 0]
        if places:
            place, mark = min(places)
            text = self._buffer[:place]
            self._buffer = self._buffer[place + (0 if mark in (_START, _CHANNEL) else len(mark)) :]
            parts = self._some(text, over=True)
            self._state = "header"
            return parts
        if self._state == "call" and not end:
            return self._begun()
        certain = len(self._buffer) - (0 if end else held_back(self._buffer, _ENDS))
        text, self._buffer = self._buffer[:certain], self._buffer[certain:]
        return self._some(text, over=end)

    def _some(self, text: str, *, over: bool) -> list[Part]:
        """A piece of a message's body."""
        if self._state == "call":
            return self._whole(text) if over else []
        if self._state == "arguments":
            shown, _ = self._json.feed(text)
            return [Part("arguments", shown)] if shown else []
        if self._state == "reasoning":
            return [Part("reasoning", text)] if text else []
        return self._content(text)

    def _content(self, text: str) -> list[Part]:
        if not text or self._calls_only:
            return []
        lead = "\n\n" if self._apart else ""  # two messages in one answer
        places: Places = ((self._at, len(text)),)
        if lead:
            places = ((ELSEWHERE, len(lead)), *places)
        self._said, self._apart = True, False
        return [Part("content", lead + text, places=places)]

    def _whole(self, body: str) -> list[Part]:
        self._state = "header"
        text = f"{self._header}{_MESSAGE}{body}"
        calls = self._form.read(text)
        if calls is None and self._cut_off and not self._buffer:
            calls = unfinished_call(self._form, text)
        if calls is None:
            return self._content(body)
        self._calls += len(calls)
        return [Part("call", call=call) for call in calls]

    def _begun(self) -> list[Part]:
        if self._live is None or len(self._buffer) < self._live:
            return []
        lead = f"{self._header}{_MESSAGE}"
        head = self._form.head(lead + self._buffer)
        if head is None:
            return []
        self._buffer = self._buffer[head.size - len(lead) :]
        self._calls += 1
        self._state = "arguments"
        return [Part("call", call=ToolCall(head.name, ""))]
