"""Our own rows about hosted models (`router/data/models.toml`): what genai-prices lacks or has stale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cache
from typing import cast

from router.capabilities import CAPABILITIES
from router.catalogue.tables import checked_row, read_table
from router.profile import Tier

__all__ = ["Row", "rows_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Facts about some models, on one host (`[[model]]`) or wherever they run (`[[family]]`).

    Attributes:
        provider: The host's row in `providers.toml`; None: any host.
        match: Names in lower case, with `*` for anything. A family's are compared with the part of a model's
            name after its last slash.
        tiers: Prices; empty: no price.
        like: `provider:model` in genai-prices, whose price and window hold here; None: no such.
        override: The row's price goes before genai-prices'.
        reason: Why it does.
        context_window: Tokens; None: not said.
        max_output: Tokens; None: not said.
        lacks: Capabilities that these models do not have.
        licence: Of the weights; None: not said.
        retired: The day the host withdrew the name; None: not known to be.
        source: The page it was read from.
        checked: The day it was read, ISO 8601.
    """

    provider: str | None = None
    match: tuple[str, ...]
    tiers: tuple[Tier, ...] = ()
    like: str | None = None
    override: bool = False
    reason: str = ""
    context_window: int | None = None
    max_output: int | None = None
    lacks: frozenset[str] = field(default_factory=frozenset)
    licence: str | None = None
    retired: str | None = None
    source: str
    checked: str


_FIELDS = tuple(entry.name for entry in fields(Row))


def rows_of(provider: str, model: str) -> tuple[Row, ...]:
    """The rows that a host's model matches, in the file's order: rows of the host first, then families."""
    name = model.lower()
    short = name.rpartition("/")[2]
    return tuple(
        row
        for row in _load()
        if row.provider in (provider, None) and _matches(name if row.provider else short, row.match)
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@cache
def _load() -> tuple[Row, ...]:
    table = read_table("models.toml")
    rows = []
    for section in ("model", "family"):
        entries = cast("list[object]", table.get(section, []))
        rows += [_row(entry, f"models.toml: {section} {place}") for place, entry in enumerate(entries)]
    return tuple(rows)


def _row(entry: object, where: str) -> Row:
    values = dict(checked_row(entry, where=where, known=_FIELDS))
    lacks = frozenset(cast("list[str]", values.pop("lacks", [])))
    if not lacks <= CAPABILITIES.keys():
        raise ValueError(f"{where}: no capability is called {min(lacks - CAPABILITIES.keys())!r}")
    if values.get("override") and not values.get("reason"):
        raise ValueError(f"{where}: an override needs a reason")
    match = tuple(name.lower() for name in cast("list[str]", values.pop("match")))
    tiers = tuple(Tier(**tier) for tier in cast("list[Mapping[str, float]]", values.pop("tiers", [])))  # type: ignore[arg-type]  # `above` is an int in the file
    return Row(match=match, lacks=lacks, tiers=tiers, **values)  # type: ignore[arg-type]  # names were checked, types are the tests' business
