"""What the budgets have left, without I/O: as of the writer's last transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from router.ledger.money import SCALE, Account, Standing, hour_of, to_usd, window

if TYPE_CHECKING:
    from router.allowances import Budget
    from router.ledger.desk import Desk

__all__ = ["Standings"]


class Standings:
    """The budgets of one ledger as they stand."""

    def __init__(self, desk: Desk, budgets: Sequence[Budget], wall: Callable[[], float]) -> None:
        """Reads nothing yet.

        Args:
            desk: Where the writer is found.
            budgets: All that hold.
            wall: The Unix time in seconds.
        """
        self._desk, self._wall = desk, wall
        self._accounts = [Account.of(budget) for budget in budgets]

    def covering(self, model: str, task: str | None) -> list[int]:
        """The places of the budgets that cover requests of this task to this model."""
        return [place for place, account in enumerate(self._accounts) if account.covers(model, task or "")]

    def of(self, place: int) -> Standing:
        """How a budget stands in the period that runs."""
        writer = self._desk.known_writer()
        snapshot = writer.snapshot if writer is not None else ()
        hour, account = hour_of(self._wall()), self._accounts[place]
        if snapshot and snapshot[place].start <= hour < snapshot[place].end:
            return snapshot[place]
        # A new period, or nothing was ever booked here.
        return Standing(*window(account.budget.period, hour), account.limit, account.limit)

    def spendable(self, task: str | None) -> list[tuple[str | None, float]]:
        """Per budget that may hold for a task: its model (None: all), and the USD that it could still give.

        What is set aside for requests under way is part of that: it may come back.
        """
        return [
            (account.budget.model, self.of(place).free / SCALE)
            for place, account in enumerate(self._accounts)
            if account.budget.task in (None, task)
        ]

    def ends_at(self, task: str | None) -> float | None:
        """Unix time at which the first period ends of the budgets that may hold for a task; None if none."""
        return min(
            (
                self.of(place).end * 3600.0
                for place, account in enumerate(self._accounts)
                if account.budget.period != "total" and account.budget.task in (None, task)
            ),
            default=None,
        )

    def in_words(self, task: str | None) -> str:
        """The budgets that may hold for a task: what they have left, and until when."""
        return ". ".join(
            self._in_words(place)
            for place, account in enumerate(self._accounts)
            if account.budget.task in (None, task)
        )

    def _in_words(self, place: int) -> str:
        now, account = self.of(place), Account.of(self._accounts[place].budget)
        account.start, account.end = now.start, now.end
        aside = f", {to_usd(now.free - now.left)} USD set aside" if now.free > now.left else ""
        return f"{account.name}: {to_usd(now.left)} USD left{aside}{account.until}"
