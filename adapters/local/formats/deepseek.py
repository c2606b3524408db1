"""`tool▁calls▁begin`: DeepSeek V3 and R1 and what was distilled from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from adapters.local.grammar import Rules, alternatives, literal
from adapters.local.json_text import BROKEN, object_end, object_text, parsed
from adapters.local.tools import MOST_CALLS, SECTION_HEAD, Head, Tool, ToolCall, arguments_rule

__all__ = ["DeepSeek"]


#: Not the ASCII one, and the words of its tokens are joined by U+2581.
_BAR = "\N{FULLWIDTH VERTICAL LINE}"


def _spellings(name: str) -> tuple[str, ...]:
    """A token's text, and how distilled models without that token spell it."""
    return tuple(f"<{_BAR}{name.replace('▁', gap)}{_BAR}>" for gap in ("▁", "_", " "))


_CALLS, _CALLS_END = _spellings("tool▁calls▁begin"), _spellings("tool▁calls▁end")
_CALL, _CALL_END = _spellings("tool▁call▁begin"), _spellings("tool▁call▁end")
_SEPARATORS = _spellings("tool▁sep")
_AROUND = (*_CALLS, *_CALLS_END)


def _any(spellings: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, spellings))})"


_NAMED = rf"([^\s<`{{{_BAR}]+)"
#: V3.1 writes `name<sep>{...}`; V3 and R1 write `function<sep>name` and fence the arguments.
_HEAD = re.compile(
    rf"{_any(_CALL)}\s*(?:{_NAMED}\s*{_any(_SEPARATORS)}\s*(?=\{{)"
    rf"|(?:function\s*{_any(_SEPARATORS)}\s*)?{_NAMED}\s*(?:```(?:json)?\s*)?(?=\{{))"
)


class DeepSeek:
    """Calls between special tokens, their arguments as JSON. See `ToolFormat`.

    Args:
        tools: What may be called.
        fenced: Whether the template writes arguments between fences, as V3's and R1's does.
    """

    lead: str = ""
    marks: tuple[str, ...] = (*_AROUND, *_CALL)
    tails: tuple[str, ...] = ("```", *_CALL_END)
    visible: frozenset[str] = frozenset({_CALLS[0], _CALLS_END[0], _CALL[0], _CALL_END[0], _SEPARATORS[0]})

    def __init__(self, tools: Iterable[Tool], *, fenced: bool = False) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._fenced = fenced

    def bare(self, start: str) -> bool | None:
        """Never: calls are marked."""
        return False if start else None

    def cut(self, text: str, *, end: bool) -> int | None:
        """See `ToolFormat`."""
        around = next((mark for mark in _AROUND if text.startswith(mark)), None)
        if around is not None:
            return len(around)
        head = _HEAD.match(text)
        start = 0
        if head is not None:
            over = object_end(text, head.end())
            if over is None:
                return len(text) if end else None
            start = 0 if over == BROKEN else over
        closing = re.compile(_any(_CALL_END)).search(text, start)
        return closing.end() if closing else len(text) if end else None

    def read(self, text: str) -> list[ToolCall] | None:
        """See `ToolFormat`."""
        if text in _AROUND:
            return []
        head = self.head(text)
        if head is None:
            return None
        over = object_end(text, head.size)
        if over is None or over == BROKEN:
            return None
        arguments = object_text(parsed(text[head.size : over]))
        left = re.sub(rf"{_any(_CALL_END)}|```|\s", "", text[over:])
        return None if arguments is None or left else [ToolCall(head.name, arguments)]

    def head(self, text: str) -> Head | None:
        """See `ToolFormat`."""
        found = _HEAD.match(text)
        name = (found[1] or found[2]) if found else ""
        return Head(name, found.end()) if found and name in self._tools else None

    def grammar(self, rules: Rules, tools: Sequence[Tool], *, several: bool) -> str:
        """See `ToolFormat`."""
        bodies = []
        for tool in tools:
            before, after = self._frame(tool.name)
            bodies.append(f"{literal(before)} {arguments_rule(rules, tool)} {literal(after)}")
        call = rules.add("call", alternatives(bodies))
        more = f' ("\\n"? {call}){{0,{MOST_CALLS - 1}}}' if several else ""
        return f"{literal(_CALLS[0])} {call}{more} {literal(_CALLS_END[0])}"

    def section(self, definitions: Sequence[object]) -> str:
        """In DeepSeek's own syntax."""
        listing = "\n".join(json.dumps(definition, ensure_ascii=False) for definition in definitions)
        before, after = self._frame("tool_name")
        return (
            f"{SECTION_HEAD}\n\nYou may call one or more of these functions:\n{listing}\n\n"
            f"To call, answer with exactly this form, once per call between the outermost marks:\n"
            f'{_CALLS[0]}{before}{{"argument": "value"}}{after}{_CALLS_END[0]}'
        )

    def _frame(self, name: str) -> tuple[str, str]:
        if self._fenced:
            return f"{_CALL[0]}function{_SEPARATORS[0]}{name}\n```json\n", f"\n```{_CALL_END[0]}"
        return f"{_CALL[0]}{name}{_SEPARATORS[0]}", _CALL_END[0]
