"""What every chooser is built on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.routing import Routing
    from router.simulate.demand import Demand
    from router.simulate.hosts import Host

__all__ = ["Chooser"]


class Chooser:
    """Orders the candidates of a request. This one leaves the router's order as it is, and learns nothing.

    Args:
        hosts: The backends of its world, by the models' places.
        seed: Of what it decides by chance.
    """

    def __init__(self, hosts: Sequence[Host], seed: str) -> None:
        self._hosts = hosts
        self._rng = random.Random(seed)  # noqa: S311 - a simulation is no secret

    def order(self, demand: Demand, routing: Routing) -> Sequence[int]:
        """Places of the eligible models, best first."""
        del demand
        return routing.order

    def started(self, place: int) -> None:
        """An attempt was sent to a model."""

    def ended(self, place: int, seconds: float | None, *, timed_out: bool) -> None:
        """An attempt is over; after so many seconds if it was answered, else None."""
