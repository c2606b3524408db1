"""Texts and numbers of a JSON schema as grammar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from adapters.local.grammar.numbers import integers, numbers
from adapters.local.grammar.patterns import pattern_to_gbnf
from adapters.local.grammar.rules import SchemaError, repeated

__all__ = ["count_of", "is_of", "number_body", "string_body"]

#: A double is exact up to here; NaN is no bound either.
_LARGEST = 1e15
#: llama.cpp makes rules of repetitions.
_MOST_REPEATS = 10_000

_DAY = '("0" [1-9] | "1" [0-9] | "2" [0-8])'
_DATE = (
    '("19" | "20") [0-9]{2} "-" (("0" [1-9] | "1" [0-2]) "-" '
    + _DAY
    + ' | ("0" [13-9] | "1" [0-2]) "-" ("29" | "30")'
    ' | ("0" [13578] | "1" [02]) "-31")'
)
_TIME = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})?'
_ZONE = '("Z" | [-+] ("0" [0-9] | "1" [0-2]) ":" [0-5] [0-9])'
#: Formats that are held; others are annotations, as the standard has it.
_FORMATS = {
    "date": _DATE,
    "time": f"{_TIME} {_ZONE}",
    "date-time": f'{_DATE} "T" {_TIME} {_ZONE}',
    "uuid": '[0-9a-f]{8} ("-" [0-9a-f]{4}){3} "-" [0-9a-f]{12}',
}


def string_body(schema: Mapping[str, Any], where: str) -> str:
    """A text of this schema, quotation marks included."""
    least, most = count_of(schema, "minLength", where) or 0, count_of(schema, "maxLength", where)
    bounded = least > 0 or most is not None
    if most is not None and most < least:
        raise SchemaError(f"{where}: no text has {least} characters at least and {most} at most")
    form = _FORMATS.get(str(schema.get("format")))
    if "pattern" in schema or form:
        if form and (bounded or "pattern" in schema):
            raise SchemaError(f"{where}: a format beside a length or a pattern cannot be held")
        body = pattern_to_gbnf(str(schema["pattern"]), least, most) if "pattern" in schema else form
        return f'"\\"" {body} "\\""'
    return f'"\\"" {repeated("char", least, most)} "\\""' if bounded else "string"


def number_body(kind: str, schema: Mapping[str, Any], where: str) -> str:
    """A number of this schema; `kind` is "integer" or "number"."""
    least, open_below = _bound(schema, "minimum", "exclusiveMinimum", where)
    most, open_above = _bound(schema, "maximum", "exclusiveMaximum", where)
    if least is None and most is None:
        return kind
    if kind == "number":
        return numbers(least, most, open_below=open_below, open_above=open_above)
    low = None if least is None else int(least // 1) + (open_below or least % 1 != 0)
    high = None if most is None else int(most // 1) - (open_above and most % 1 == 0)
    return integers(low, high)


def _bound(schema: Mapping[str, Any], word: str, strict: str, where: str) -> tuple[Decimal | None, bool]:
    """The tighter of a bound's two forms, and whether it is open."""
    found: tuple[Decimal | None, bool] = (None, False)
    for key in (word, strict):
        value = schema.get(key)
        if value is None or (key == strict and value is False):
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= _LARGEST:
            raise SchemaError(f"{where}: {key} = {value!r} cannot be held")
        bound = Decimal(str(value))
        if found[0] is None or (bound >= found[0] if word == "minimum" else bound <= found[0]):
            found = (bound, key == strict)
    return found


def count_of(schema: Mapping[str, Any], word: str, where: str) -> int | None:
    """The value of a keyword that counts; None if it is absent."""
    value = schema.get(word)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_REPEATS:
        raise SchemaError(f"{where}: {word} = {value!r} cannot be held (0 to {_MOST_REPEATS} can)")
    return value


def is_of(value: object, kinds: Sequence[str]) -> bool:
    """Whether a JSON value has one of these types."""
    if isinstance(value, bool):
        return "boolean" in kinds
    if isinstance(value, int):
        return "integer" in kinds or "number" in kinds
    names: dict[type, str] = {
        type(None): "null",
        str: "string",
        float: "number",
        list: "array",
        dict: "object",
    }
    return names.get(type(value), "") in kinds
