"""What was spent or let go and has not reached the server for certain. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapters.redis.wire import MOST_NANO, Wire, settle_wire

if TYPE_CHECKING:
    from router.ledger.operations import Settle

__all__ = ["Owing"]

#: Of a step that perhaps did not run, what must be done. A reservation is refused and undone instead, and
#: limits are only estimates then.
_MUST = frozenset({"settle", "hold", "only", "sign_out"})


class Owing:
    """One step of unknown fate, and what is to be sent after it."""

    def __init__(self) -> None:
        self._unsure: tuple[int, list[Wire]] | None = None
        self._owed: dict[str, Wire] = {}
        self._spent: dict[tuple[str, str], int] = {}  # under no reservation: sums, however many there are

    def __bool__(self) -> bool:
        return self._unsure is not None or bool(self._owed) or bool(self._spent)

    @property
    def unsure(self) -> tuple[int, list[Wire]] | None:
        """The number of the step that perhaps ran, and what to send under it again."""
        return self._unsure

    @property
    def usd(self) -> float:
        """USD that were spent and are not booked for certain, about."""
        wires = [*(self._unsure[1] if self._unsure else ()), *self._owed.values()]
        owed = sum(int(str(wire[2])) for wire in wires if wire[0] == "settle" and wire[2])
        return (owed + sum(self._spent.values())) / 1e9

    def sent(self, number: int, wires: Sequence[Wire]) -> None:
        """A step is under way."""
        self._unsure = number, [wire for wire in wires if wire[0] in _MUST]

    def arrived(self) -> None:
        """It ran."""
        self._unsure = None

    def owe(self, settle: Settle, hour: int | None) -> None:
        """A settlement was not even sent."""
        wire = settle_wire(settle, hour)
        if settle.key:
            self._owed[settle.key] = wire
        elif wire[2]:
            which = settle.model, settle.task
            self._spent[which] = min(self._spent.get(which, 0) + int(str(wire[2])), MOST_NANO)

    def undo(self, key: str, model: str, task: str) -> None:
        """A reservation was refused, since nobody knows whether it was made."""
        self._owed.setdefault(key, ["settle", key, False, model, task, False])

    def next(self, most: int) -> list[Wire]:
        """So much of what is owed as goes into one step; it is to be sent at once."""
        keys = list(self._owed)[:most]
        wires = [self._owed.pop(key) for key in keys]
        spent = list(self._spent)[: most - len(wires)]
        return wires + [["settle", "", str(self._spent.pop(which)), *which, False] for which in spent]
