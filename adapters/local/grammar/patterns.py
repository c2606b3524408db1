"""Regular expressions (the part of ECMA 262 that schemas use) as GBNF, inside a JSON string."""

from __future__ import annotations

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


def pattern_to_gbnf(pattern: str) -> str:
    """The texts that the whole pattern matches, escaped as in JSON.

    A pattern without anchors would be satisfied anywhere in a text; the text is the match alone then.

    Raises:
        SchemaError: if it uses what a grammar cannot hold (look-around, back references, ...).
    """
    reader = _Reader(pattern)
    body = reader.choice()
    if not reader.done:
        raise reader.error("unbalanced parenthesis")
    return body


class _Reader:
    """A recursive-descent reader of one pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._place = 0

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

    def choice(self) -> str:
        branches = [self._sequence()]
        while self._skip("|"):
            branches.append(self._sequence())
        return alternatives(branches)

    def _sequence(self) -> str:
        start = self._place
        parts = []
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
        return " ".join(parts) or '""'

    def _quantified(self) -> str:
        body = self._atom()
        least, most = 1, 1
        if self._skip("*"):
            least, most = 0, -1
        elif self._skip("+"):
            least, most = 1, -1
        elif self._skip("?"):
            least, most = 0, 1
        elif self._peek() == "{":
            least, most = self._braces()
        else:
            return body
        self._skip("?")  # lazy or greedy: the same set of texts
        return repeated(f"({body})", least, None if most < 0 else most)

    def _braces(self) -> tuple[int, int]:
        end = self._pattern.find("}", self._place)
        least, comma, most = self._pattern[self._place + 1 : max(end, 0)].partition(",")
        if end < 0 or not least.isdecimal() or (most and not most.isdecimal()):
            raise self.error("a quantifier that is none")
        self._place = end + 1
        low, high = int(least), (int(most) if most else -1) if comma else int(least)
        if max(low, high) > _MOST_REPEATS or 0 <= high < low:
            raise self.error(f"repetitions beyond {_MOST_REPEATS}, or none possible")
        return low, high

    def _atom(self) -> str:
        char = self._take()
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == ".":
            return f"[^{_UNSAFE}]"
        if char == "\\":
            return self._escape()
        if char in _SPECIAL:
            raise self.error(f"an unexpected {char!r}")
        return _as_json(char)

    def _group(self) -> str:
        if self._skip("?") and not self._skip(":"):
            raise self.error("look-around and named groups cannot be held")
        body = self.choice()
        if not self._skip(")"):
            raise self.error("an unclosed group")
        return f"({body})"

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
