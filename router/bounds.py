"""How large a request may be: what is beyond it is refused before anything walks through it.

A caller passes Python objects, and these can be what no JSON text is: one schema that is named twice in a
second one, which is named twice in a third, stands for a billion values after thirty of them; a list can hold
itself; a generator need not end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from types import NoneType

from router.errors import InvalidRequestError

__all__ = ["MOST_DEPTH", "MOST_LISTED", "MOST_VALUES", "check_bounds", "listed"]

#: Messages, tools or functions.
MOST_LISTED = 100_000
#: Values in one field, as often as they are named. A chat of 10,000 messages with parts has some 50,000.
MOST_VALUES = 1_000_000
#: Levels of mappings and lists in one field. Hosts take schemas of ten.
MOST_DEPTH = 100

_CONTAINERS = (list, tuple, Mapping)
_LEAVES = frozenset({str, int, float, bool, NoneType, bytes})


def listed(field: str, values: object) -> object:
    """What can be walked through once, as a list; anything else as it is.

    Raises:
        InvalidRequestError: if it holds more than a request may.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        return values
    known = values if isinstance(values, list | tuple) else list(islice(values, MOST_LISTED + 1))
    if len(known) > MOST_LISTED:
        raise InvalidRequestError(f"{field}: more than {MOST_LISTED} of them are not taken", field=field)
    return known


def check_bounds(fields: Mapping[str, object]) -> None:
    """Checks how much the fields of a request hold, and how deep; cheap, level by level.

    Raises:
        InvalidRequestError: if one holds too much, or is nested too deep, as what holds itself always is.
    """
    for name, value in fields.items():
        level = [value] if type(value) not in _LEAVES else []
        depth = total = 0
        while level:
            dicts = [one for one in level if type(one) is dict]
            others = [one for one in level if type(one) is not dict and isinstance(one, _CONTAINERS)]
            total += sum(map(len, dicts)) + sum(map(len, others))
            if total > MOST_VALUES:
                raise InvalidRequestError(f"{name}: it holds more than {MOST_VALUES} values", field=name)
            depth += bool(dicts or others)
            if depth > MOST_DEPTH:
                raise InvalidRequestError(
                    f"{name}: it is nested deeper than {MOST_DEPTH} levels, or holds itself", field=name
                )
            level = [value for one in dicts for value in one.values() if type(value) not in _LEAVES]
            if others:
                level += [value for one in others for value in _values(one) if type(value) not in _LEAVES]


def _values(container: Mapping[object, object] | Sequence[object]) -> Iterable[object]:
    if type(container) is list:
        return container
    return container.values() if isinstance(container, Mapping) else container
