"""Reads the data files that ship with the library."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["DATA", "checked_row", "read_table"]

DATA = Path(__file__).parent.parent / "data"
"""The folder of the data files."""


def read_table(name: str) -> Mapping[str, object]:
    """One of our own TOML files, parsed.

    Raises:
        OSError: if the installation is broken.
    """
    with (DATA / name).open("rb") as file:
        return tomllib.load(file)


def checked_row(row: object, *, where: str, known: Iterable[str]) -> Mapping[str, object]:
    """A row of a data file, if it is a table of fields that are known.

    Raises:
        ValueError: naming the row, so that a typo in a data file fails the first test that reads it.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: a table is needed")  # noqa: TRY004 - a wrong file, not a wrong call
    unknown = sorted(set(row) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}")
    return row
