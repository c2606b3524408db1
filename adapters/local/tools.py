"""Tools, calls of them, and what every way to write calls has in common."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from adapters.local.grammar import Rules, SchemaError, add_schema, alternatives, literal
from adapters.local.json_text import JSONTail, object_text, parsed

__all__ = [
    "MOST_CALLS",
    "SECTION_HEAD",
    "Head",
    "Tool",
    "ToolCall",
    "ToolFormat",
    "arguments_rule",
    "call_of",
    "object_rule",
    "unfinished_call",
]

#: Calls that a grammar allows side by side; a model that cannot stop must not fill the context with them.
MOST_CALLS = 8
#: Distinguishes our own section from the template's, in tests and logs.
SECTION_HEAD = "# Tools"
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


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


@dataclass(frozen=True, slots=True)
class Head:
    """A call's beginning, up to its arguments, which are a JSON object.

    Attributes:
        name: What is called.
        size: Characters before the arguments.
    """

    name: str
    size: int


class ToolFormat(Protocol):
    """One way to write calls into text.

    Attributes:
        marks: Texts that open a call anywhere in an answer.
        visible: Control tokens, by their text, that must be seen to read it.
        tails: What may follow a call's arguments and belongs to the call, in order.
        lead: What an answer that is no call begins with, where a grammar forces its form.
        section: Presents tools to a model whose template does not.
    """

    marks: tuple[str, ...]
    visible: frozenset[str]
    tails: tuple[str, ...]
    lead: str

    def bare(self, start: str) -> bool | None:
        """Whether an answer that begins so is a call without an opening mark; None: too early to tell."""
        ...

    def cut(self, text: str, *, end: bool) -> int | None:
        """Where the call that the text begins with is over; None: more is needed."""
        ...

    def read(self, text: str) -> list[ToolCall] | None:
        """The calls in a text that was cut; None if it is none; empty if it is marks and nothing else."""
        ...

    def head(self, text: str) -> Head | None:
        """The head of the call that the text begins with; None while there is none."""
        ...

    def grammar(self, rules: Rules, tools: Sequence[Tool], *, several: bool) -> str:
        """A rule body for one call (or more) of these tools.

        Raises:
            SchemaError: if a tool's parameters cannot be held.
        """
        ...

    def section(self, definitions: Sequence[object]) -> str:
        """Presents tools, given as the caller defined them, to a model whose template does not."""
        ...


def arguments_rule(rules: Rules, tool: Tool) -> str:
    """The rule of a tool's arguments.

    Raises:
        SchemaError: if its parameters cannot be held.
    """
    try:
        return add_schema(rules, tool.parameters or _NO_PARAMETERS)
    except SchemaError as error:
        raise SchemaError(f"tool {tool.name!r}: {error}") from error


def object_rule(rules: Rules, tools: Iterable[Tool], word: str) -> str:
    """A rule for a call as `{"name": ..., word: {...}}`."""
    bodies = []
    for tool in tools:
        opening = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "{word}": '
        bodies.append(f'{literal(opening)} {arguments_rule(rules, tool)} "}}"')
    return rules.add("call", alternatives(bodies))


def call_of(value: object, names: Mapping[str, Tool]) -> ToolCall | None:
    """A call from what models make of `{"name": ..., "arguments": {...}}`; None if it is none."""
    if not isinstance(value, dict):
        return None
    function = value.get("function")
    if isinstance(function, dict):
        value = function
    name = value.get("name", function)
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = parsed(arguments)
    text = object_text(arguments)
    if not isinstance(name, str) or name not in names or text is None:
        return None
    return ToolCall(name, text)


def unfinished_call(form: ToolFormat, text: str) -> list[ToolCall] | None:
    """The call that an answer broke off in, with its arguments as far as they go; None if there is none."""
    head = form.head(text)
    if head is None:
        return None
    tail = JSONTail()
    arguments, _ = tail.feed(text[head.size :])
    if tail.over and object_text(parsed(arguments)) is None:
        return None
    return [ToolCall(head.name, arguments)]
