"""Bare JSON, tagged JSON and Python's syntax: Llama 3.1 to 4."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from adapters.local.formats.pythonic import begins_pythonic, pythonic_calls, pythonic_end
from adapters.local.grammar import Rules
from adapters.local.json_text import BROKEN, object_end, parsed
from adapters.local.tools import MOST_CALLS, SECTION_HEAD, Head, Tool, ToolCall, call_of, object_rule

__all__ = ["Llama"]

_MARKS = ("<|python_tag|>", "<|python_start|>", "<|python_end|>")
_STARTS = ('{"name"', '{"type"', '{"function"', '{"parameters"')
_HEAD = re.compile(
    r"(?:<\|python_\w+\|>)?[\s;,]*\{\s*(?:\"type\"\s*:\s*\"function\"\s*,\s*)?"
    r"\"name\"\s*:\s*\"([^\"\\]+)\"\s*,\s*\"(?:parameters|arguments)\"\s*:\s*(?=\{)"
)
_OPENING = re.compile(r"(?:<\|python_\w+\|>)?[\s;,]*")
_CALLED = re.compile(r"[A-Za-z_][\w.-]*\(")


class Llama:
    """`{"name": ..., "parameters": {...}}`, bare or after `<|python_tag|>`. See `ToolFormat`.

    Calls in Python's syntax are read, too (`[f(a=1), g()]`, with or without `<|python_start|>` around):
    Llama 4 and 3.2 were taught both.
    """

    lead: str = ""
    marks: tuple[str, ...] = _MARKS
    tails: tuple[str, ...] = ("}",)
    visible: frozenset[str] = frozenset(_MARKS)

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    def bare(self, start: str) -> bool | None:
        """JSON that is a call is told from other JSON by its first key, a list by its first name."""
        start = start.lstrip("; \t\r\n")
        if start.startswith("["):
            return begins_pythonic(start, self._tools)
        compact = re.sub(r"\s", "", start[:64])
        if any(compact.startswith(known) for known in _STARTS):
            return True
        return None if any(known.startswith(compact) for known in _STARTS) else False

    def cut(self, text: str, *, end: bool) -> int | None:
        """Each call by itself: several follow each other, with or without a semicolon."""
        opening = _OPENING.match(text)
        begin = opening.end() if opening else 0
        first = text[begin : begin + 1]
        if first == "{":
            over = object_end(text, begin)
        elif first == "[" and begins_pythonic(text[begin:], self._tools) is not False:
            over = pythonic_end(text, begin)
        elif (called := _CALLED.match(text, begin)) is not None:
            over = pythonic_end(text, called.end() - 1)
        elif not end and re.fullmatch(r"[\w.-]{0,80}", text[begin:]):
            return None
        else:  # what follows the mark is no call: the mark alone is read, and means nothing
            return max(len(mark) for mark in ("", *_MARKS) if text.startswith(mark)) or len(text)
        if over is None:
            return len(text) if end else None
        return len(text) if over == BROKEN else over

    def read(self, text: str) -> list[ToolCall] | None:
        """See `ToolFormat`."""
        if text in _MARKS:
            return []
        opening = _OPENING.match(text)
        body = text[opening.end() :] if opening else text
        if body.startswith("{"):
            call = call_of(parsed(body), self._tools)
            return None if call is None else [call]
        return pythonic_calls(body, self._tools)

    def head(self, text: str) -> Head | None:
        """See `ToolFormat`."""
        found = _HEAD.match(text)
        return Head(found[1], found.end()) if found and found[1] in self._tools else None

    def grammar(self, rules: Rules, tools: Sequence[Tool], *, several: bool) -> str:
        """See `ToolFormat`."""
        call = object_rule(rules, tools, "parameters")
        return f'{call} ("; " {call}){{0,{MOST_CALLS - 1}}}' if several else call

    def section(self, definitions: Sequence[object]) -> str:
        """In Llama's words."""
        listing = "\n\n".join(json.dumps(definition, ensure_ascii=False) for definition in definitions)
        return (
            f"{SECTION_HEAD}\n\nYou have access to the following functions. To call one, answer with nothing "
            'but {"name": function name, "parameters": dictionary of argument name and its value}. '
            f"Do not use variables.\n\n{listing}"
        )
