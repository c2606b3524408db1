"""Schemas of which a value can meet one alone: only so can a grammar hold `oneOf`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from adapters.local.grammar.rules import SchemaError
from adapters.local.grammar.scalars import is_of

__all__ = ["tag_of"]

_ANY = frozenset({"object", "array", "string", "number", "boolean", "null"})

Schema = Mapping[str, Any]


def tag_of(
    branches: Sequence[Schema],
    written: Callable[[Schema], Sequence[str]],
    follow: Callable[[object], object],
    where: str,
) -> str | None:
    """What tells the branches of a `oneOf` apart, beside the types and values that they list.

    Args:
        branches: Without references at their top.
        written: The types of the values that are written for a branch.
        follow: Gives a schema without a reference at its top.
        where: The place, for errors.

    Returns:
        A property that all objects must have so that no value meets two branches; None if none is needed.

    Raises:
        SchemaError: if a value might meet two.
    """
    alike: dict[int, Schema] = {}
    for (place, one), (other_place, other) in combinations(enumerate(branches), 2):
        common = _common(one, other, written)
        if common - {"object"}:
            raise _unclear(place, other_place, where)
        if common:
            alike |= {place: one, other_place: other}
    if not alike:
        return None
    for name in _properties(next(iter(alike.values()))):
        values = [_values(follow(_properties(branch).get(name))) for branch in alike.values()]
        if all(not _share(one, other) for one, other in combinations(values, 2)):
            return name
    first, second, *_ = alike
    raise _unclear(first, second, where)


def _unclear(place: int, other: int, where: str) -> SchemaError:
    return SchemaError(
        f"{where}/oneOf: a value might match both {place} and {other}, and a grammar cannot tell; let a "
        "property with a different 'const' in each tell them apart, or use 'anyOf'"
    )


def _common(one: Schema, other: Schema, written: Callable[[Schema], Sequence[str]]) -> frozenset[str]:
    """The types of values that might meet both."""
    values = _values(one), _values(other)
    if None not in values:
        return _ANY if _share(*values) else frozenset()
    for known, schema in ((values[0], other), (values[1], one)):
        if known is not None:
            kinds = tuple(_kinds(schema.get("type")))
            return _ANY if any(is_of(value, kinds) for value in known) else frozenset()
    ours, theirs = (
        _kinds(written(schema)) & _kinds(apart.get("type")) for schema, apart in ((one, other), (other, one))
    )
    return ours | theirs


def _kinds(types: object) -> frozenset[str]:
    """All numbers are alike here: 1.0 is an integer, too. Without a word of types any may come."""
    if not types:
        return _ANY
    names = [types] if isinstance(types, str) else list(types)  # type: ignore[call-overload]  # checked before
    return frozenset("number" if name == "integer" else str(name) for name in names)


def _properties(schema: Schema) -> Mapping[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def _values(schema: object) -> list[object] | None:
    """The values that a schema lists; None if it lists none."""
    if not isinstance(schema, Mapping):
        return None
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _share(one: list[object] | None, other: list[object] | None) -> bool:
    """Whether a value might be in both lists."""
    if one is None or other is None:
        return True
    return any(
        left == right and isinstance(left, bool) == isinstance(right, bool) for left in one for right in other
    )
