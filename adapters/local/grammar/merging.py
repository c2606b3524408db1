"""Several schemas that hold at once, as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapters.local.grammar.rules import SchemaError

__all__ = ["merged"]

_TIGHTER = {
    "minimum": max, "exclusiveMinimum": max, "minLength": max, "minItems": max,
    "maximum": min, "exclusiveMaximum": min, "maxLength": min, "maxItems": min,
}  # fmt: skip
_NOTES = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "$id",
        "$schema",
        "$comment",
        "deprecated",
        "readOnly",
        "writeOnly",
    }
)


def merged(schemas: Sequence[object], where: str) -> object:
    """The schema that a value meets if it meets all of these.

    Raises:
        SchemaError: if that cannot be written down.
    """
    whole: dict[str, Any] = {}
    for schema in schemas:
        if schema is True:
            continue
        if not isinstance(schema, Mapping):
            raise SchemaError(f"{where}: {'nothing fits false' if schema is False else 'not a schema'}")
        for word, value in schema.items():
            whole[word] = _both(word, whole[word], value, where) if word in whole else value
    return _closed(whole, schemas)


def _both(word: str, one: Any, other: Any, where: str) -> Any:
    if one == other or word in _NOTES:
        return other
    if word in _TIGHTER:
        return _TIGHTER[word](one, other)
    if word == "type":
        return _types(one, other, where)
    if word == "additionalProperties" and False in (one, other):
        return False
    if word in _JOINED:
        return _JOINED[word](one, other)
    raise SchemaError(f"{where}: {word!r} is set twice, and not alike")


def _properties(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {name: {"allOf": [one[name], other[name]]} for name in one if name in other}
    return {**one, **other, **both}


_JOINED: dict[str, Callable[[Any, Any], Any]] = {
    "properties": _properties,
    "required": lambda one, other: list(dict.fromkeys([*one, *other])),
    "enum": lambda one, other: [value for value in one if value in other],
    "allOf": lambda one, other: [*one, *other],
    "$defs": lambda one, other: {**one, **other},
    "definitions": lambda one, other: {**one, **other},
}


def _types(one: Any, other: Any, where: str) -> list[str]:
    first, second = ([kinds] if isinstance(kinds, str) else list(kinds) for kinds in (one, other))
    both = [kind for kind in first if kind in second or (kind == "integer" and "number" in second)]
    both += [kind for kind in second if kind == "integer" and "number" in first and kind not in both]
    if not both:
        raise SchemaError(f"{where}: no value is both {one} and {other}")
    return both


def _closed(whole: dict[str, Any], schemas: Sequence[object]) -> dict[str, Any]:
    """Drops the properties that a part with `additionalProperties: false` does not know."""
    for schema in schemas:
        if (
            isinstance(schema, Mapping)
            and schema.get("additionalProperties") is False
            and "properties" in whole
        ):
            known = schema.get("properties", {})
            whole["properties"] = {name: part for name, part in whole["properties"].items() if name in known}
    return whole
