"""How models write tool calls: reading them, and forcing them with a grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from adapters.local.grammar import Rules, SchemaError, add_schema, alternatives, literal

__all__ = ["SECTION_HEAD", "Hermes", "Llama3", "Tool", "ToolCall", "ToolFormat", "format_of", "section"]

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
#: Calls that a grammar allows side by side; a model that cannot stop must not fill the context with them.
_MOST_CALLS = 8


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call; `parameters` is its JSON schema."""

    name: str
    parameters: object = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call; `arguments` is a JSON object as text."""

    name: str
    arguments: str


class ToolFormat(Protocol):
    """One way to write calls into text.

    Attributes:
        marks: Texts that open a call anywhere in an answer.
        visible: Control tokens, by their text, that must be seen to read it.
    """

    marks: tuple[str, ...]
    visible: frozenset[str]

    def bare(self, start: str) -> bool | None:
        """Whether an answer that begins so is a call without an opening mark; None: too early to tell."""
        ...

    def cut(self, text: str, *, end: bool) -> int | None:
        """Where the call that the text begins with is over; None: more is needed."""
        ...

    def read(self, text: str) -> list[ToolCall] | None:
        """The calls in a text; None if it is none."""
        ...

    def grammar(self, rules: Rules, tools: Sequence[Tool], *, several: bool) -> str:
        """A rule body for one call (or more) of these tools.

        Raises:
            SchemaError: if a tool's parameters cannot be held.
        """
        ...


def _bodies(rules: Rules, tools: Sequence[Tool], word: str) -> str:
    bodies = []
    for tool in tools:
        try:
            arguments = add_schema(rules, tool.parameters or _NO_PARAMETERS)
        except SchemaError as error:
            raise SchemaError(f"tool {tool.name!r}: {error}") from error
        opening = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "{word}": '
        bodies.append(f'{literal(opening)} {arguments} "}}"')
    return rules.add("call", alternatives(bodies))


def _call_of(value: object, names: Mapping[str, Tool]) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class Hermes:
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Qwen 2.5, Qwen 3, Hermes.

    The XML that Qwen3-Coder puts between the same marks is read, too.
    """

    def __init__(self, tools: Iterable[Tool]) -> None:
        self.marks: tuple[str, ...] = ("<tool_call>",)
        self.visible = frozenset({"<tool_call>", "</tool_call>"})
        self._tools = {tool.name: tool for tool in tools}

    def bare(self, start: str) -> bool | None:
        """Never: calls are marked."""
        return False if start else None

    def cut(self, text: str, *, end: bool) -> int | None:
        """See `ToolFormat`."""
        start = self._body_end(text)
        if start is None:  # unfinished JSON; a closing mark in it is part of a string
            return self._first_mark(text) if end else None
        place = text.find("</tool_call>", start)
        if place >= 0:
            return place + len("</tool_call>")
        return len(text) if end else None

    @staticmethod
    def _first_mark(text: str) -> int:
        place = text.find("</tool_call>")
        return len(text) if place < 0 else place + len("</tool_call>")

    def _body_end(self, text: str) -> int | None:
        begin = len("<tool_call>")
        begin += len(text[begin:]) - len(text[begin:].lstrip())
        if text[begin : begin + 1] != "{":
            return begin
        try:
            return json.JSONDecoder().raw_decode(text, begin)[1]
        except (ValueError, RecursionError):
            return None

    def read(self, text: str) -> list[ToolCall] | None:
        """See `ToolFormat`."""
        body = text.removeprefix("<tool_call>").removesuffix("</tool_call>").strip()
        call = self._coder(body) if body.startswith("<function=") else _call_of(_json(body), self._tools)
        return None if call is None else [call]

    def grammar(self, rules: Rules, tools: Sequence[Tool], *, several: bool) -> str:
        """See `ToolFormat`."""
        call = f'"<tool_call>\\n" {_bodies(rules, tools, "arguments")} "\\n</tool_call>"'
        return f'{call} ("\\n" {call}){{0,{_MOST_CALLS - 1}}}' if several else call

    def _coder(self, body: str) -> ToolCall | None:
        found = re.match(r"<function=([^>\n]+)>", body)
        tool = self._tools.get(found[1].strip()) if found else None
        if tool is None:
            return None
        schema = tool.parameters if isinstance(tool.parameters, dict) else {}
        properties = schema.get("properties", {})
        arguments = {
            name.strip(): _typed(value.strip("\n"), properties.get(name.strip()))
            for name, value in re.findall(r"<parameter=([^>\n]+)>(.*?)</parameter>", body, flags=re.DOTALL)
        }
        return ToolCall(tool.name, json.dumps(arguments, ensure_ascii=False))


def _typed(text: str, schema: Any) -> object:
    """A parameter's text as what its schema wants; the text itself where that is a string."""
    if isinstance(schema, dict) and schema.get("type") not in (None, "string"):
        value = _json(text)
        return text if value is None and text != "null" else value
    return text


class Llama3:
    """`{"name": ..., "parameters": {...}}`, bare or after `<|python_tag|>`: Llama 3.1 and later."""

    _STARTS = ('{"name"', '{"type"', '{"function"', '{"parameters"')

    def __init__(self, tools: Iterable[Tool]) -> None:
        self.marks: tuple[str, ...] = ("<|python_tag|>",)
        self.visible = frozenset(self.marks)
        self._tools = {tool.name: tool for tool in tools}

    def bare(self, start: str) -> bool | None:
        """A call is the whole answer; other JSON is told from it by its first key."""
        compact = re.sub(r"\s", "", start[:64])
        if any(compact.startswith(known) for known in self._STARTS):
            return True
        return None if any(known.startswith(compact) for known in self._STARTS) else False

    def cut(self, text: str, *, end: bool) -> int | None:
        """At the end: several calls follow each other, and text after a call is none of the format."""
        return len(text) if end else None

    def read(self, text: str) -> list[ToolCall] | None:
        """See `ToolFormat`."""
        rest = text.removeprefix("<|python_tag|>").strip()
        calls = []
        decoder = json.JSONDecoder()
        while rest:
            try:
                value, used = decoder.raw_decode(rest)
            except (ValueError, RecursionError):
                return None
            call = _call_of(value, self._tools)
            if call is None:
                return None
            calls.append(call)
            rest = rest[used:].lstrip("; \t\r\n")
        return calls or None

    def grammar(self, rules: Rules, tools: Sequence[Tool], *, several: bool) -> str:
        """See `ToolFormat`."""
        call = _bodies(rules, tools, "parameters")
        return f'{call} ("; " {call}){{0,{_MOST_CALLS - 1}}}' if several else call


#: Distinguishes our own section from the template's, in tests and logs.
SECTION_HEAD = "# Tools"


def format_of(template: str, tools: Sequence[Tool]) -> tuple[ToolFormat, bool]:
    """How a model with this chat template writes calls, and whether the template presents tools itself."""
    mentions = re.search(r"\btools\b", template) is not None
    if "<tool_call>" in template:
        return Hermes(tools), mentions
    if mentions and ("<|python_tag|>" in template or "<|start_header_id|>" in template):
        return Llama3(tools), True
    return Hermes(tools), False


def section(definitions: Sequence[object]) -> str:
    """Presents tools to a model whose template does not, in Qwen's words: the most models know them."""
    listing = "\n".join(json.dumps(definition, ensure_ascii=False) for definition in definitions)
    return (
        f"{SECTION_HEAD}\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        f"<tools>\n{listing}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, '
        '"arguments": <args-json-object>}\n</tool_call>'
    )
