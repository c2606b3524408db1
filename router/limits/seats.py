"""One request's place in a queue, and then at a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.limits.counts import Counts
    from router.limits.line import Line
    from router.limits.window import Grain

__all__ = ["Seat", "State"]


class State(Enum):
    """Where a request stands. `ASKED`: this process lets it go, the store was asked whether all do."""

    WAITING = "waiting"
    ASKED = "asked"
    GRANTED = "granted"
    OVER = "over"


class Seat:
    """One request's place. Changed by its line only, under the line's lock.

    Attributes:
        line: Where it waits.
        number: Its place in the order of arrival.
        tokens: What it takes of a minute's tokens; above 0.
        work: Predicted seconds that it keeps its place at the model.
        state: Where it stands.
        sent_at: When it had its turn; infinite before.
        grains: Where it is counted, by its limits; empty before.
        wake: Wakes who waits for it; returns False if nobody ever will.
    """

    __slots__ = ("grains", "line", "number", "sent_at", "state", "tokens", "wake", "work")

    def __init__(self, line: Line, number: int, tokens: int, work: float) -> None:
        self.line = line
        self.number = number
        self.tokens = max(tokens, 1)
        self.work = work
        self.state = State.WAITING
        self.sent_at = math.inf
        self.grains: dict[Counts, Grain] = {}
        self.wake: Callable[[], bool] | None = None

    @property
    def granted(self) -> bool:
        """Whether the request may go, and is not over."""
        return self.state is State.GRANTED

    @property
    def over(self) -> bool:
        """Whether it was turned away, or has left."""
        return self.state is State.OVER
