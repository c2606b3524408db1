"""What several processes share of a model's limits, whatever keeps it.

The limiter of a process counts its own requests; a store counts everybody's. The one that comes with the
library keeps them in the ledger's file (`router.ledger.rates`). Another one, on a server that several
machines share, needs to do no more than what stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

__all__ = ["NO_LIMITS", "Ask", "LimitStore", "Limits"]


class Limits(NamedTuple):
    """What a model may take: requests and tokens per minute, requests at once. None: unlimited."""

    rpm: int | None
    tpm: int | None
    max_concurrency: int | None


NO_LIMITS = Limits(None, None, None)


class Ask(NamedTuple):
    """Requests to one model that want to go, in their order.

    Attributes:
        model: Its name, the same in all processes.
        limits: What it may take at this moment.
        tokens: Of each request.
        service: Seconds that a request usually takes.
        also: Other limits that hold for each of them, by the names that all processes have for them.
    """

    model: str
    limits: Limits
    tokens: tuple[int, ...]
    service: float
    also: tuple[tuple[str, Limits], ...] = ()


class LimitStore(Protocol):
    """Counts what all processes send. No method waits or fails; all may be called from any thread."""

    def take(self, ask: Ask, done: Callable[[int, float], None]) -> None:
        """Takes places for as many of the requests as may go, the first ones, in one atomic step.

        Args:
            ask: Who wants to go.
            done: Called once, from any thread, with how many may go and the seconds after which it is worth
                asking for the others (0 if all may go).
        """
        ...

    def correct(self, model: str, tokens: int, *, age: float) -> None:
        """A request turned out to have so many tokens more than it was taken for; negative: fewer.

        `age`: the seconds since it was let go.
        """
        ...

    def delayed(self, model: str, tokens: int, *, age: float) -> None:
        """A request of so many tokens is sent only now, so many seconds after it was let go.

        The backend counts it for a minute from now on.
        """
        ...

    def give(self, model: str, *, unsent: int | None, age: float) -> None:
        """A request is over and its place is free.

        Args:
            model: Its model.
            unsent: It was never sent, and was taken for so many tokens; None: it was sent.
            age: Seconds since it was let go.
        """
        ...
