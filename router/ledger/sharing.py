"""The limits of models, as all processes that write to one ledger's file share them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.ledger.desk import Desk
    from router.limits.store import Ask

__all__ = ["SharedLimits"]


class SharedLimits:
    """A `router.limits.LimitStore` in the ledger's file.

    If the file fails, everybody who asks may go, and each process keeps the limits by its own count: what was
    promised of money (that nothing is spent which cannot be booked) is not promised of limits.
    """

    def __init__(self, desk: Desk, wall: Callable[[], float]) -> None:
        """Does nothing yet.

        Args:
            desk: Where the writer is found.
            wall: The Unix time in seconds.
        """
        self._desk = desk
        self._wall = wall

    def take(self, ask: Ask, done: Callable[[int, float], None]) -> None:
        """As `LimitStore.take`."""
        from router.ledger.operations import Take

        if self._desk.closed:
            done(len(ask.tokens), 0.0)
        else:
            self._desk.writer().submit(Take(ask, lambda answer: done(*answer)))

    def correct(self, model: str, tokens: int, *, age: float) -> None:
        """As `LimitStore.correct`."""
        self._change(model, age, tokens=tokens)

    def delayed(self, model: str, tokens: int, *, age: float) -> None:
        """As `LimitStore.delayed`."""
        self._change(model, age, requests=-1, tokens=-tokens)
        self._change(model, 0.0, requests=1, tokens=tokens)

    def give(self, model: str, *, unsent: int | None, age: float) -> None:
        """As `LimitStore.give`."""
        if unsent is None:
            self._change(model, age, over=1)
        else:
            self._change(model, age, over=1, requests=-1, tokens=-unsent)

    def _change(self, model: str, age: float, *, over: int = 0, requests: int = 0, tokens: int = 0) -> None:
        from router.ledger.operations import Give

        if not self._desk.closed:  # what a closed ledger had under way was freed with it
            give = Give(model, self._wall() - age, over=over, requests=requests, tokens=tokens)
            self._desk.writer().submit(give)
