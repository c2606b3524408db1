"""One engine's part in the books."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from adapters.local.residency.prediction import Need
from adapters.local.residency.residency import Account, Engine, Residency

__all__ = ["Lodger", "Place", "Tenant"]


class Place(Protocol):
    """Where an engine gets its memory from. All methods may be called from any thread."""

    def enter(self, need: Need, wanted: Callable[[], bool]) -> int:
        """Waits for room for the model, and sets it aside; see `Residency.enter`.

        Returns:
            The cells that it may have.
        """
        ...

    def entered(self, seconds: float, fixed: int | None) -> None:
        """It was loaded, in so many seconds; see `Residency.entered`."""
        ...

    def left(self) -> None:
        """Its memory is free again."""
        ...

    def used(self) -> None:
        """A request begins."""
        ...

    def changed(self) -> None:
        """It is idle, or not wanted any more."""
        ...

    def close(self) -> None:
        """It will not come back. What it holds counts until `left`."""
        ...


class Tenant:
    """An engine in this process's books. Fulfils `Place`.

    Args:
        residency: The books.
        name: The model's.
        engine: Whom to ask to leave.
        limit: Bytes that all local models together may take; None: as much as there is to spare.
    """

    def __init__(self, residency: Residency, name: str, engine: Engine, limit: int | None) -> None:
        self._residency = residency
        self._account = Account(name, engine, limit)
        residency.register(self._account)

    def enter(self, need: Need, wanted: Callable[[], bool]) -> int:
        """See `Place`."""
        return self._residency.enter(self._account, need, wanted)

    def entered(self, seconds: float, fixed: int | None) -> None:
        """See `Place`."""
        self._residency.entered(self._account, seconds, fixed)

    def left(self) -> None:
        """See `Place`."""
        self._residency.left(self._account)

    def used(self) -> None:
        """See `Place`."""
        self._residency.used(self._account)

    def changed(self) -> None:
        """See `Place`."""
        self._residency.changed()

    def close(self) -> None:
        """See `Place`."""
        self._residency.forget(self._account)


class Lodger:
    """An engine whose memory is in another process's books: the app's, of which this is a child.

    Fulfils `Place`.

    Args:
        cells: What was granted there.
    """

    def __init__(self, cells: int) -> None:
        self._cells = cells

    def enter(self, _need: Need, _wanted: Callable[[], bool]) -> int:
        """See `Place`."""
        return self._cells

    def entered(self, _seconds: float, _fixed: int | None) -> None:
        """See `Place`."""

    def left(self) -> None:
        """See `Place`."""

    def used(self) -> None:
        """See `Place`."""

    def changed(self) -> None:
        """See `Place`."""

    def close(self) -> None:
        """See `Place`."""
