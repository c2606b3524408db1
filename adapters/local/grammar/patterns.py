"""Regular expressions (the part of ECMA 262 that schemas use) as GBNF, inside a JSON string."""

from __future__ import annotations

from typing import NamedTuple

from adapters.local.grammar.rules import SchemaError, alternatives, in_class, literal, repeated

__all__ = ["pattern_to_gbnf"]

#: Sets of characters by their escape, as they stand inside brackets.
_SETS = {"d": "0-9", "w": "a-zA-Z0-9_", "s": " "}
_OUTSIDE = {"D": "0-9", "W": "a-zA-Z0-9_", "S": r" \t\n\r"}
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
#: Never bare inside a JSON string.
_UNSAFE = r'"\\\x00-\x1F\x7F'
_SPECIAL = "()[]{}|*+?.^$"
_MOST_REPEATS = 1000
#: llama.cpp makes rules of groups and repetitions; it refuses to repeat something if its rules, times the
#: repetitions, are more than this (found by trying).
_MOST_RULES = 2000


def pattern_to_gbnf(pattern: str, least: int = 0, most: int | None = None) -> str:
    """The texts that the whole pattern matches, escaped as in JSON.

    A pattern without anchors would be satisfied anywhere in a text; the text is the match alone then.

    Args:
        pattern: The regular expression.
        least: Characters that the text has at least. With such a bound, only a pattern can be held that is
            one kind of character, repeated.
        most: Characters that it has at most.

    Raises:
        SchemaError: if it uses what a grammar cannot hold (look-around, back references, ...).
    """
    reader = _Reader(pattern)
    if least or most is not None:
        return reader.one_kind(least, most)
    part = reader.choice()
    if not reader.done:
        raise reader.error("unbalanced parenthesis")
    return part.body


class _Part(NamedTuple):
    """A part of a pattern as GBNF, and whether it may be nothing."""

    body: str
    empty: bool


class _Reader:
    """A recursive-descent reader of one pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._place = 0
        self._rules = 0  # that llama.cpp makes of what was read so far, at most

    def error(self, why: str) -> SchemaError:
        return SchemaError(f"pattern {self._pattern!r}: {why} at {self._place}")

    @property
    def done(self) -> bool:
        return self._place >= len(self._pattern)

    def _peek(self) -> str:
        return "" if self.done else self._pattern[self._place]

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise self.error("ends too early")
        self._place += 1
        return char

    def _skip(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._place)
        if found:
            self._place += len(text)
        return found

    def one_kind(self, least: int, most: int | None) -> str:
        """The pattern with a bound of its length."""
        self._skip("^")
        kind = "" if self.done or self._peek() in _SPECIAL.replace("[", "").replace(".", "") else self._atom()
        low, high = self._repetitions() or (1, 1)
        self._skip("$")
        if not kind or not self.done:
            raise SchemaError(
                f"pattern {self._pattern!r}: beside a length, only a pattern of one repeated character or "
                "class can be held"
            )
        low = max(low, least)
        high = most if high is None else high if most is None else min(high, most)
        if high is not None and high < low:
            raise SchemaError(f"pattern {self._pattern!r}: no match has {least} to {most} characters")
        return repeated(f"({kind})", low, high) if high != 0 else '""'

    def choice(self) -> _Part:
        branches = [self._sequence()]
        while self._skip("|"):
            branches.append(self._sequence())
        self._rules += len(branches) > 1
        return _Part(alternatives(part.body for part in branches), any(part.empty for part in branches))

    def _sequence(self) -> _Part:
        start = self._place
        parts: list[_Part] = []
        while not self.done and self._peek() not in "|)":
            if self._peek() == "^":
                if self._place != start:
                    raise self.error("an anchor inside")
                self._take()
                start = self._place
            elif self._skip("$"):
                if self._peek() not in {"", "|", ")"}:
                    raise self.error("an anchor inside")
            else:
                parts.append(self._quantified())
        return _Part(" ".join(part.body for part in parts) or '""', all(part.empty for part in parts))

    def _quantified(self) -> _Part:
        before = self._rules
        part = self._group() if self._skip("(") else _Part(self._atom(), empty=False)
        repetitions = self._repetitions()
        if repetitions is None:
            return part
        least, most = repetitions
        if most is None and part.empty:
            raise self.error("what may be nothing cannot be repeated without an end")
        self._rules += 1  # the parentheses
        if (self._rules - before) * max(least, most or 0) > _MOST_RULES:
            raise self.error("nested repetitions with too large a product")
        self._rules += 1 if most is None else most - least
        if most == 0:
            return _Part('""', empty=True)
        return _Part(repeated(f"({part.body})", least, most), part.empty or least == 0)

    def _repetitions(self) -> tuple[int, int | None] | None:
        """How often at least and at most; None if nothing is said."""
        found: tuple[int, int | None]
        if self._skip("*"):
            found = 0, None
        elif self._skip("+"):
            found = 1, None
        elif self._skip("?"):
            found = 0, 1
        elif self._peek() == "{":
            found = self._braces()
        else:
            return None
        self._skip("?")  # lazy or greedy: the same set of texts
        return found

    def _braces(self) -> tuple[int, int | None]:
        end = self._pattern.find("}", self._place)
        least, comma, most = self._pattern[self._place + 1 : max(end, 0)].partition(",")
        if end < 0 or not least.isdecimal() or (most and not most.isdecimal()):
            raise self.error("a quantifier that is none")
        self._place = end + 1
        low = int(least)
        high = (int(most) if most else None) if comma else low
        if max(low, high or 0) > _MOST_REPEATS or (high is not None and high < low):
            raise self.error(f"repetitions beyond {_MOST_REPEATS}, or none possible")
        return low, high

    def _atom(self) -> str:
        char = self._take()
        if char == "[":
            return self._class()
        if char == ".":
            return f"[^{_UNSAFE}]"
        if char == "\\":
            return self._escape()
        if char in _SPECIAL:
            raise self.error(f"an unexpected {char!r}")
        return _as_json(char)

    def _group(self) -> _Part:
        if self._skip("?") and not self._skip(":"):
            raise self.error("look-around and named groups cannot be held")
        part = self.choice()
        if not self._skip(")"):
            raise self.error("an unclosed group")
        self._rules += 1
        return _Part(f"({part.body})", part.empty)

    def _escape(self) -> str:
        char = self._take()
        if char in _SETS:
            return f"[{_SETS[char]}]"
        if char in _OUTSIDE:
            return f"[^{_OUTSIDE[char]}{_UNSAFE}]"
        return _as_json(self._escaped(char))

    def _escaped(self, char: str) -> str:
        if char in _CONTROL:
            return _CONTROL[char]
        if char in "xu":
            size = 2 if char == "x" else 4
            digits = "".join(self._take() for _ in range(size))
            try:
                return chr(int(digits, 16))
            except ValueError:
                raise self.error(f"\\{char}{digits} is no character") from None
        if char.isalnum():
            raise self.error(f"\\{char} cannot be held")
        return char

    def _class(self) -> str:
        outside = self._skip("^")
        members: list[str] = []
        while not self._skip("]"):
            members.append(self._member())
        if not members:
            raise self.error("an empty class")
        if outside:
            return f"[^{''.join(members)}{_UNSAFE}]"
        return f"[{''.join(members)}]"

    def _member(self) -> str:
        char = self._take()
        if char == "\\":
            char = self._take()
            if char in _SETS:
                return _SETS[char]
            if char in _OUTSIDE:
                raise self.error(f"\\{char} inside a class cannot be held")
            char = self._escaped(char)
        last = char
        if self._peek() == "-" and self._pattern[self._place + 1 : self._place + 2] not in {"]", ""}:
            self._take()
            last = self._take()
            if last == "\\":
                last = self._escaped(self._take())
        if last < char:
            raise self.error("a range that is none")
        if _unsafe_between(char, last):
            raise self.error("a class with a quote, a backslash or a control character cannot be held")
        return in_class(char) if last == char else f"{in_class(char)}-{in_class(last)}"


def _unsafe_between(first: str, last: str) -> bool:
    return first < " " or any(first <= char <= last for char in '"\\\x7f')


def _as_json(char: str) -> str:
    if char in '"\\':
        return literal("\\" + char)
    if char in "\n\t\r\f":
        return literal({"\n": "\\n", "\t": "\\t", "\r": "\\r", "\f": "\\f"}[char])
    if char < " " or char == "\x7f":
        return literal(f"\\u{ord(char):04x}")
    return literal(char)
