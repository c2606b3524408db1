"""The filters and tests that a chat template may use; those that could grow without bound are our own."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import filters as jinja
from jinja2 import pass_environment
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from markupsafe import escape

from adapters.local.sandbox_limits import CLOCK, MOST_CHARACTERS, joined, weighed

__all__ = ["FILTERS", "TESTS", "check_format", "check_growth"]

_WIDEST = 1000
#: Jinja's own filters whose results are hardly larger than what they are given.
_HARMLESS = (
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int"),
    *("items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse"),
    *("select", "selectattr", "sort", "string", "title", "trim", "unique", "upper", "urlencode", "wordcount"),
)


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        CLOCK.tick()
        return weighed(function(*args, **kwargs))

    return checked


def check_format(form: str, values: Any) -> None:
    """Looks at a format text (`%` or braces) before it is used.

    Raises:
        SecurityError: if it has widths beyond reason, or widths that come from values.
    """
    texts = values if isinstance(values, tuple | list) else [values]
    longest = max(
        (len(text) if isinstance(text, str) else len(str(weighed(text))) for text in texts), default=0
    )
    fields = form.count("%") + form.count("{")
    if (
        re.search(r"\d{4}|%[^a-zA-Z%]*\*|\{[^{}]*\{", form)
        or len(form) + fields * (longest + _WIDEST) > MOST_CHARACTERS
    ):
        raise SecurityError("a format too wide")


def check_growth(method: str, text: str, args: tuple[Any, ...]) -> None:
    """Looks at a call of a method of `str` that can make a text longer.

    Raises:
        SecurityError: if it would make it too long.
    """
    if method in ("ljust", "rjust", "center", "zfill"):
        if any(isinstance(arg, int) and arg > _WIDEST for arg in args):
            raise SecurityError("a width too large")
    elif method == "replace" and len(args) > 1:
        old, new = args[0], args[1]
        if len(text) + (text.count(old) + 1) * len(new) > MOST_CHARACTERS:
            raise SecurityError("a replacement too long")
    elif method == "join" and args:
        items = args[0]
        if not isinstance(items, str | list | tuple):
            raise SecurityError("join wants a list")
        if len(text) * len(items) > MOST_CHARACTERS:
            raise SecurityError("a text too long")


def _paced(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        CLOCK.tick()
        yield value


def _tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):  # noqa: PLR2004
        raise SecurityError("an indent too large")
    return json.dumps(
        weighed(value),
        indent=indent,
        ensure_ascii=bool(options.get("ensure_ascii", False)),
        separators=options.get("separators"),
        sort_keys=bool(options.get("sort_keys", False)),
    )


@pass_environment
def _join(environment: Environment, values: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    parts: list[Any] = []
    for value in values:
        parts += [str(weighed(d)), value] if parts else [value]
    return joined(parts)


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    whole, old, new = str(weighed(text)), str(weighed(old)), str(weighed(new))
    check_growth("replace", whole, (old, new))
    return whole.replace(old, new, -1 if count is None else count)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    lead = width if isinstance(width, str) else " " * min(max(width, 0), _WIDEST)
    lines = str(weighed(text)).splitlines() or [""]
    shown = (
        lead + line if (place or first) and (line or blank) else line for place, line in enumerate(lines)
    )
    return joined(part for place, line in enumerate(shown) for part in (("\n", line) if place else (line,)))


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if abs(precision) > 20:  # noqa: PLR2004 - more than a float has
        raise SecurityError("a precision too large")
    return jinja.do_round(value, precision, method)  # type: ignore[arg-type]  # Jinja checks it


def _sum(values: Iterable[Any], attribute: Any = None, start: float = 0) -> float:
    total = start
    for value in values:
        number = value if attribute is None else value[attribute]
        if not isinstance(number, int | float) or not isinstance(total, int | float):
            raise SecurityError("sum adds numbers only")
        total = weighed(total + number)
    return total


def _format(form: str, *args: Any, **kwargs: Any) -> str:
    check_format(str(form), args or tuple(kwargs.values()))
    return str(form) % (args or kwargs)


def _truncate(text: str, length: int = 255, *_: Any, **__: Any) -> str:
    return str(text) if len(text) <= length else str(text)[: max(length - 3, 0)] + "..."


def _center(text: str, width: int = 80) -> str:
    return str(text).center(min(width, _WIDEST))


def _number(value: Any) -> int | float:
    if not isinstance(value, int | float):
        raise SecurityError("a number is needed")
    return value


FILTERS: dict[str, Callable[..., Any]] = {
    **{name: _checked(jinja.FILTERS[name]) for name in _HARMLESS},
    "paced": _paced,
    "tojson": _checked(_tojson),
    "join": _checked(_join),
    "replace": _checked(_replace),
    "indent": _checked(_indent),
    "round": _checked(_round),
    "sum": _checked(_sum),
    "format": _checked(_format),
    "truncate": _checked(_truncate),
    "center": _checked(_center),
    "safe": _checked(str),
    "escape": _checked(lambda text: str(escape(text))),
    "e": _checked(lambda text: str(escape(text))),
}

#: Tests that would compute a remainder, which on a text is formatting.
TESTS: dict[str, Callable[..., Any]] = {
    "even": lambda value: _number(value) % 2 == 0,
    "odd": lambda value: _number(value) % 2 == 1,
    "divisibleby": lambda value, by: _number(value) % _number(by) == 0,
}
