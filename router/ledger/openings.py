"""Reservations of this process that are not settled yet, and what the writer is asked about them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from router.ledger.money import clean, to_units
from router.ledger.process import PROCESS

if TYPE_CHECKING:
    from router.ledger.operations import Reserve, Settle

__all__ = ["Openings"]


class _Opening(NamedTuple):
    model: str
    task: str
    units: int


class Openings:
    """Reservations by their keys. Used from any thread: each step is atomic.

    In a process that was forked there are none: the parent settles what it reserved.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Opening] = {}
        self._generation = PROCESS.generation

    def reserve(self, key: str, model: str, task: str | None, usd: Decimal) -> Reserve | None:
        """Opens one. Returns what to ask the writer for; None if it costs nothing.

        Raises:
            ValueError: if the amount cannot be booked, or the key is open already.
        """
        from router.ledger.operations import Reserve, ignore

        units = to_units(usd)
        self._forget_the_parents()
        if key in self._open:
            raise ValueError(f"{key!r} has a reservation already")
        opening = self._open[key] = _Opening(clean(model), clean(task or ""), units)
        return Reserve(key, opening.model, opening.task, units, ignore) if units else None

    def refused(self, key: str) -> None:
        """Nothing was reserved."""
        self._open.pop(key, None)

    def settle(self, key: str, usd: Decimal | None) -> Settle | None:
        """Closes one. Returns what to ask the writer for; None if there is nothing to settle.

        Raises:
            ValueError: if the amount cannot be booked.
        """
        from router.ledger.operations import Settle, ignore

        units = None if usd is None else to_units(usd)
        self._forget_the_parents()
        opening = self._open.pop(key, None)
        if opening is None or not (opening.units or units):
            return None
        return Settle(key, opening.model, opening.task, units, ignore)

    def _forget_the_parents(self) -> None:
        if self._generation != PROCESS.generation:
            self._generation = PROCESS.generation
            self._open = {}
