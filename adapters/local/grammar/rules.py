"""The pieces that grammars are put together from."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Rules", "SchemaError", "alternatives", "in_class", "literal", "repeated"]

#: More rules than any sensible schema needs; a bound on what a hostile one can cost.
MOST_RULES = 4000

#: Longer repetitions are written as repeated blocks: llama.cpp counts the rules of what is repeated times the
#: repetitions, and refuses more than 2000; a longer repetition it takes for one without an end.
_LONG, _BLOCK = 500, 100

#: What every grammar may refer to. White space is bounded, so that a model cannot go on with it for ever.
_COMMON = {
    "gap": r'(" " | "\n" [ \t]{0,24})?',
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" unit)',
    # Halves of surrogate pairs are left out: alone they are no text.
    "unit": r"[0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}",
    "string": r'"\"" char* "\""',
    "integer": r'"-"? ("0" | [1-9] [0-9]{0,14})',
    "number": r'integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "pair": 'string ":" " "? value',
    "object": '"{" gap (pair ("," gap pair)*)? gap "}"',
    "array": '"[" gap (value ("," gap value)*)? gap "]"',
}


class SchemaError(ValueError):
    """A schema that no grammar can hold; the text says where and why."""


class Rules:
    """A grammar's rules, by name."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}

    def add(self, hint: str, body: str) -> str:
        """Adds a rule under a new name that resembles `hint`; gives the name.

        Raises:
            SchemaError: if there are too many.
        """
        name = self.reserve(hint)
        self._rules[name] = body
        return name

    def reserve(self, hint: str) -> str:
        """A new name, for a rule that refers to itself; `define` it later."""
        if len(self._rules) >= MOST_RULES:
            raise SchemaError(f"the schema needs more than {MOST_RULES} rules")
        name = f"{re.sub('[^a-zA-Z0-9]+', '-', hint)[:24].strip('-') or 'rule'}-{len(self._rules)}"
        self._rules[name] = ""
        return name

    def define(self, name: str, body: str) -> None:
        """Gives a reserved name its rule."""
        self._rules[name] = body

    def text(self, root: str) -> str:
        """The whole grammar, beginning with `root`."""
        rules = {"root": root, **self._rules, **_COMMON}
        return "\n".join(f"{name} ::= {body}" for name, body in rules.items()) + "\n"


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def literal(text: str) -> str:
    """Exactly this text."""
    return '"' + "".join(_ESCAPES.get(char, char) for char in text) + '"'


def in_class(char: str) -> str:
    """A character as it is written inside brackets."""
    code = ord(char)
    if char.isalnum() and code < 0x80:  # noqa: PLR2004 - ASCII
        return char
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"  # noqa: PLR2004


def alternatives(bodies: Iterable[str]) -> str:
    """One of these, in parentheses if there are several."""
    found = list(dict.fromkeys(bodies))
    return found[0] if len(found) == 1 else f"({' | '.join(found)})"


def repeated(body: str, least: int, most: int | None) -> str:
    """The body so many times; it must be one word or stand in parentheses or brackets."""
    if max(least, most or 0) > _LONG:
        return _in_blocks(body, least, most)
    if (least, most) == (0, None):
        return f"{body}*"
    if (least, most) == (1, None):
        return f"{body}+"
    if (least, most) == (0, 1):
        return f"{body}?"
    if least == most:
        return f"{body}{{{least}}}"
    return f"{body}{{{least},{'' if most is None else most}}}"


def _in_blocks(body: str, least: int, most: int | None) -> str:
    block = f"({body}{{{_BLOCK}}})"
    blocks, rest = divmod(least, _BLOCK)
    parts: list[tuple[str, int, int | None]] = [(block, blocks, blocks), (body, rest, rest)]
    if most is None:
        parts.append((body, 0, None))
    else:
        blocks, rest = divmod(most - least, _BLOCK)
        # One block stays open, so that every length between two full ones can be reached.
        parts += [(block, 0, max(0, blocks - 1)), (body, 0, rest + _BLOCK * min(1, blocks))]
    return " ".join(repeated(part, low, high) for part, low, high in parts if high != 0)
