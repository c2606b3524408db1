"""`<tool_call>`: Qwen 2.5 and 3, Hermes, SmolLM, and the most who have no syntax of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from adapters.local.grammar import Rules
from adapters.local.json_text import BROKEN, object_end, object_text, parsed
from adapters.local.tools import MOST_CALLS, SECTION_HEAD, Head, Tool, ToolCall, call_of, object_rule

__all__ = ["Hermes"]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_HEAD = re.compile(r'<tool_call>\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"arguments"\s*:\s*(?=\{)')


class Hermes:
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`. See `ToolFormat`.

    What others put between the same marks is read, too: the XML of Qwen3-Coder and Qwen 3.5, which may also
    leave the marks out, and the keys and values of GLM.
    """

    lead: str = ""
    tails: tuple[str, ...] = ("}", _CLOSE)
    visible: frozenset[str] = frozenset({_OPEN, _CLOSE})

    def __init__(self, tools: Iterable[Tool], *, xml: bool = False) -> None:
        self.marks: tuple[str, ...] = (_OPEN, _FUNCTION) if xml else (_OPEN,)
        self._tools = {tool.name: tool for tool in tools}

    def bare(self, start: str) -> bool | None:
        """Never: calls are marked."""
        return False if start else None

    def cut(self, text: str, *, end: bool) -> int | None:
        """See `ToolFormat`."""
        begin = len(_OPEN) if text.startswith(_OPEN) else 0
        begin += len(text[begin:]) - len(text[begin:].lstrip())
        if text[begin : begin + 1] == "{":
            return self._cut_object(text, begin, end=end)
        mark = _FUNCTION_END if text.startswith(_FUNCTION) else _CLOSE
        place = text.find(mark, begin)
        return place + len(mark) if place >= 0 else len(text) if end else None

    def _cut_object(self, text: str, begin: int, *, end: bool) -> int | None:
        """A closing mark inside a string of the arguments closes nothing."""
        if not end and _CLOSE not in text and _OPEN not in text[begin:]:
            return None
        over = object_end(text, begin)
        if over is None:
            return len(text) if end else None
        if over == BROKEN:
            place = text.find(_CLOSE, begin)
            return place + len(_CLOSE) if place >= 0 else len(text) if end else None
        rest = text[over:].lstrip()
        if rest.startswith(_CLOSE):
            return len(text) - len(rest) + len(_CLOSE)
        return None if not end and _CLOSE.startswith(rest) else over

    def read(self, text: str) -> list[ToolCall] | None:
        """See `ToolFormat`."""
        body = text.removeprefix(_OPEN).removesuffix(_CLOSE).strip()
        if body.startswith(_FUNCTION):
            call = self._pairs(
                body.removeprefix(_FUNCTION).partition(">")[0],
                re.findall(r"<parameter=([^>\n]+)>(.*?)</parameter>", body, flags=re.DOTALL),
            )
        elif "<arg_key>" in body or body in self._tools:
            call = self._pairs(
                body.partition("<arg_key>")[0],
                re.findall(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", body, flags=re.DOTALL),
            )
        else:
            call = call_of(parsed(body), self._tools)
        return None if call is None else [call]

    def head(self, text: str) -> Head | None:
        """See `ToolFormat`."""
        found = _HEAD.match(text)
        return Head(found[1], found.end()) if found and found[1] in self._tools else None

    def grammar(self, rules: Rules, tools: Sequence[Tool], *, several: bool) -> str:
        """See `ToolFormat`."""
        call = f'"<tool_call>\\n" {object_rule(rules, tools, "arguments")} "\\n</tool_call>"'
        return f'{call} ("\\n" {call}){{0,{MOST_CALLS - 1}}}' if several else call

    def section(self, definitions: Sequence[object]) -> str:
        """In Qwen's words: the most models know them."""
        listing = "\n".join(json.dumps(definition, ensure_ascii=False) for definition in definitions)
        return (
            f"{SECTION_HEAD}\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n"
            f"<tools>\n{listing}\n</tools>\n\n"
            "For each function call, return a json object with function name and arguments within "
            '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, '
            '"arguments": <args-json-object>}\n</tool_call>'
        )

    def _pairs(self, name: str, pairs: Iterable[tuple[str, str]]) -> ToolCall | None:
        tool = self._tools.get(name.strip())
        if tool is None:
            return None
        schema = tool.parameters if isinstance(tool.parameters, Mapping) else {}
        properties = schema.get("properties", {})
        arguments = {
            key.strip(): _typed(value.removeprefix("\n").removesuffix("\n"), properties.get(key.strip()))
            for key, value in pairs
        }
        text = object_text(arguments)
        return None if text is None else ToolCall(tool.name, text)


def _typed(text: str, schema: object) -> object:
    """A parameter's text as what its schema wants; the text itself where that is a string."""
    if isinstance(schema, Mapping) and schema.get("type") not in (None, "string"):
        value = parsed(text.strip())
        return text if value is None and text.strip() != "null" else value
    return text
