"""How many requests of this process are under way, by the names of their limits. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapters.redis.wire import all_limits
from router.ledger.money import clean
from router.ledger.rates import LATEST, SOONEST

if TYPE_CHECKING:
    from router.limits.store import Ask

__all__ = ["Running", "worth_asking_in"]


class Running:
    """Kept here and told with every step, so that a server that lost it knows it again."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    @property
    def counts(self) -> dict[str, int]:
        """Those that have any."""
        return dict(self._counts)

    def began(self, ask: Ask, requests: int) -> None:
        """So many of those who asked are let go."""
        for name, limits in all_limits(ask):
            if limits.max_concurrency is not None:
                self.change(name, requests)

    def change(self, name: str, more: int) -> None:
        """So many more; fewer if negative."""
        count = self._counts.pop(clean(name), 0) + more
        if count > 0:
            self._counts[clean(name)] = count

    def clear(self) -> None:
        """Nothing is under way any more."""
        self._counts.clear()


def worth_asking_in(waits: Sequence[int], service: float) -> float:
    """Seconds after which it is worth asking again.

    Args:
        waits: As the script answers: milliseconds, or minus the number of places one of which must come free.
        service: Seconds that a request keeps its place.
    """
    seconds = [wait / 1000 if wait >= 0 else min(max(service / -wait, SOONEST), LATEST) for wait in waits]
    return max(*seconds, SOONEST)
