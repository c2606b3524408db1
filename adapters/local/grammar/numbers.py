"""Ranges of numbers as patterns of digits."""

from __future__ import annotations

import math
from decimal import Decimal

from adapters.local.grammar.rules import SchemaError, alternatives

__all__ = ["integers", "numbers"]

#: Digits of the largest whole number that is written where a schema sets no bound: exact as a double.
_MOST_DIGITS = 15
#: Decimals written beyond those that the bounds themselves have.
_MORE_DECIMALS, _MOST_DECIMALS = 3, 9


def integers(least: int | None, most: int | None) -> str:
    """Whole numbers from `least` to `most`, both included.

    Raises:
        SchemaError: if there are none.
    """
    return alternatives(_scaled(least, most, 0)) if _possible(least, most) else _nothing(least, most)


def numbers(least: Decimal | None, most: Decimal | None, *, open_below: bool, open_above: bool) -> str:
    """Decimal numbers in a range, with a bounded number of decimals.

    Raises:
        SchemaError: if there are none.
    """
    decimals = max((_decimals(bound) for bound in (least, most) if bound is not None), default=0)
    bodies: list[str] = []
    for places in range(min(decimals + _MORE_DECIMALS, _MOST_DECIMALS) + 1):
        factor = 10**places
        low = None if least is None else math.ceil(least * factor)
        high = None if most is None else math.floor(most * factor)
        if least is not None and low is not None and open_below and low == least * factor:
            low += 1
        if most is not None and high is not None and open_above and high == most * factor:
            high -= 1
        if _possible(low, high):
            bodies += _scaled(low, high, places)
    return alternatives(bodies) if bodies else _nothing(least, most)


def _possible(least: int | None, most: int | None) -> bool:
    return least is None or most is None or least <= most


def _nothing(least: object, most: object) -> str:
    raise SchemaError(f"no number lies between {least} and {most}")


def _decimals(bound: Decimal) -> int:
    exponent = bound.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _scaled(least: int | None, most: int | None, places: int) -> list[str]:
    """Whole numbers written with a point before the last `places` digits, negative ones first."""
    bodies = []
    if least is None or least < 0:
        low = 1 if most is None or most >= 0 else -most
        bodies += [f'"-" {body}' for body in _positive(low, None if least is None else -least, places)]
    if most is None or most >= 0:
        bodies += _positive(max(0, least or 0), most, places)
    return bodies


def _positive(least: int, most: int | None, places: int) -> list[str]:
    top = max(10 ** (_MOST_DIGITS + places) - 1, least * 10) if most is None else most
    narrow = places + 1
    bodies = []
    for width in range(max(narrow, len(str(least))), max(narrow, len(str(top))) + 1):
        low = max(least, 0 if width == narrow else 10 ** (width - 1))
        high = min(top, 10**width - 1)
        if low <= high:
            patterns = _between(str(low).zfill(width), str(high).zfill(width))
            bodies += [_written(pattern, places) for pattern in patterns]
    return bodies


def _between(low: str, high: str) -> list[list[str]]:
    """Digit strings of one length from `low` to `high`, as lists of what may stand at each place."""
    if not low:
        return [[]]
    if set(low) == {"0"} and set(high) == {"9"}:
        return [["[0-9]"] * len(low)]
    first, last = int(low[0]), int(high[0])
    if first == last:
        return [[_digits(first, last), *rest] for rest in _between(low[1:], high[1:])]
    zeros, nines = "0" * (len(low) - 1), "9" * (len(low) - 1)
    found = []
    if low[1:] != zeros:
        found += [[_digits(first, first), *rest] for rest in _between(low[1:], nines)]
        first += 1
    tail = []
    if high[1:] != nines:
        tail = [[_digits(last, last), *rest] for rest in _between(zeros, high[1:])]
        last -= 1
    if first <= last:
        found.append([_digits(first, last), *["[0-9]"] * len(zeros)])
    return found + tail


def _digits(first: int, last: int) -> str:
    return f'"{first}"' if first == last else f"[{first}-{last}]"


def _written(pattern: list[str], places: int) -> str:
    parts: list[str] = []
    cut = len(pattern) - places
    for group in (pattern[:cut], pattern[cut:]):
        if parts and group:
            parts.append('"."')
        count = 0
        for place, digit in enumerate(group):
            count += 1
            if place + 1 == len(group) or group[place + 1] != digit:
                parts.append(digit if count == 1 else f"{digit}{{{count}}}")
                count = 0
    return " ".join(parts)
