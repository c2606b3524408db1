"""How long a template may run and how large its values may be."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from jinja2.exceptions import SecurityError

__all__ = ["CLOCK", "MOST_CHARACTERS", "Clock", "ClockError", "joined", "times", "weighed"]

#: The most characters of one value or of the output: more than any context window holds.
MOST_CHARACTERS = 8_000_000
#: The most members of one value, counting the members of members.
MOST_MEMBERS = 400_000
#: The most bits of a whole number.
MOST_BITS = 4096


class ClockError(Exception):
    """The template's time is over."""


class Clock(threading.local):
    """Each rendering thread's deadline."""

    deadline = float("inf")

    def tick(self) -> None:
        """Raises `ClockError` once the deadline, in `time.monotonic` seconds, is past."""
        if time.monotonic() > self.deadline:
            raise ClockError


CLOCK = Clock()


def weighed(value: Any) -> Any:
    """The value itself.

    Raises:
        SecurityError: if it is too large, counted as if nothing in it were shared.
    """
    if isinstance(value, str):
        if len(value) > MOST_CHARACTERS:
            raise SecurityError("a text too long")
        return value
    if value is None or isinstance(value, bool | float):
        return value
    characters = members = 0
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            characters += len(item)
        elif isinstance(item, int) and item.bit_length() > MOST_BITS:
            raise SecurityError("a number too large")
        else:
            inside = _inside(item)
            members += len(inside)
            stack += inside
        if characters > MOST_CHARACTERS or members > MOST_MEMBERS:
            raise SecurityError("a value too large")
    return value


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list | tuple | set | frozenset) else []


def joined(parts: Iterable[Any]) -> str:
    """The parts as one text.

    Raises:
        SecurityError: if it would be too long.
    """
    texts = []
    size = 0
    for part in parts:
        text = part if isinstance(part, str) else str(weighed(part))
        size += len(text)
        if size > MOST_CHARACTERS:
            raise SecurityError("a text too long")
        texts.append(text)
    return "".join(texts)


def times(left: Any, right: Any) -> Any:
    """The product of two numbers, or a sequence repeated.

    Raises:
        SecurityError: if it would be too large.
    """
    for value, count in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(count, int):
            size = len(value) if isinstance(value, str) else _members(value)
            if max(count, 0) * size > MOST_MEMBERS:
                raise SecurityError("a repetition too long")
    return weighed(left * right)


def _members(value: Any) -> int:
    count, stack = 0, [value]
    while stack:
        item = stack.pop()
        count += 1 + (len(item) if isinstance(item, str) else 0)
        stack += _inside(item)
    return count
