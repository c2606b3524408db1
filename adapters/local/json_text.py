"""JSON inside other text, as models write it: where an object ends, and its value."""

from __future__ import annotations

import json
import re
from typing import NoReturn

__all__ = ["BROKEN", "JSONTail", "object_end", "object_text", "parsed"]

#: What `object_end` answers where no object can come of it any more.
BROKEN = -1
#: Possessive: a string that is not over yet is not searched for its end in every other way, too.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]]|[\s,:\w.+-]++', re.DOTALL)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")  # Python's json reads NaN and Infinity; others do not


#: Models write line breaks into strings as they are; every JSON library but a strict one reads them.
_DECODER = json.JSONDecoder(strict=False, parse_constant=_no_number)


def parsed(text: str) -> object:
    """The value of a JSON text; None if it is none."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def object_text(value: object) -> str | None:
    """An object as JSON text that can be sent anywhere; None if it is no object."""
    if not isinstance(value, dict):
        return None
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return None
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, written as an escape: it can only stay one
        return json.dumps(value)
    return text


def object_end(text: str, start: int) -> int | None:
    """Where the object (or array) that starts here is over; None: not yet; `BROKEN`: it never will be."""
    depth, place = 0, start
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            return None if text[place] == '"' else BROKEN
        place = token.end()
        if token[0] in ("{", "["):
            depth += 1
        elif token[0] in ("}", "]"):
            depth -= 1
            if depth == 0:
                return place
    return None


class JSONTail:
    """Hands on an object as it comes, up to its end.

    Attributes:
        over: Whether it has ended, or broken off: what follows is no part of it.
    """

    _OUTSIDE = re.compile(r"[\s,:\w.+-]*")
    _INSIDE = re.compile(r'[^"\\\x00-\x1f]*')

    def __init__(self) -> None:
        self.over = False
        self._depth = 0
        self._in_string = self._escaped = False

    def feed(self, text: str) -> tuple[str, int]:
        """What to hand on, and how many characters of the text it took."""
        shown: list[str] = []
        place = 0
        while place < len(text) and not self.over:
            run = (self._INSIDE if self._in_string else self._OUTSIDE).match(text, place)
            if run is not None and run.end() > place and not self._escaped:
                shown.append(run[0])
                place = run.end()
                continue
            piece = self._one(text[place])
            if piece is None:
                break
            shown.append(piece)
            place += 1
        return "".join(shown), place

    def _one(self, char: str) -> str | None:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._in_string = False
            elif char < " ":
                return json.dumps(char)[1:-1]  # what JSON wants written as an escape
            return char
        if char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            self.over = self._depth <= 0
        else:
            self.over = True
            return None
        return char
