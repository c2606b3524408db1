"""What a writer's thread works for: where money is reserved and settled, and limits are shared.

`router.ledger.clerk` keeps them in the ledger's file; `adapters.redis` keeps them on a server that several
machines share. Whoever asks for money or for a turn does not know which of them answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from router.ledger.books import Snapshot
    from router.ledger.entries import Row
    from router.ledger.operations import Answer, Change, Visit

__all__ = ["Keeper"]


class Keeper(Protocol):
    """Belongs to one writer's thread. No method raises; each may wait, but not for ever.

    What several processes share is consistent whatever they do at once: a reservation fits into every budget
    that covers it, or nothing is reserved; no more turns are taken than a model's limits allow. What a
    process that died had reserved or under way is freed. While that cannot be had (a full disk, a server that
    does not answer), every `Reserve` is refused, every `Settle` is owed and booked later, and every `Take` is
    granted, so that each process keeps the limits by its own count.

    Nobody waits here: `router.ledger.teller` stands before every keeper and holds the line of those who wait
    for money, going by `Refusal.final` and the `snapshot`. `Reserve.waits` is its affair, and it never hands
    a `Withdraw` on.
    """

    @property
    def snapshot(self) -> Snapshot:
        """How the budgets stood when that was last seen; empty if it never was."""

    @property
    def owes(self) -> bool:
        """Whether money was spent that could not be booked yet."""

    @property
    def crowded(self) -> bool:
        """Whether a place was refused because of owners that may be dead; asking resets it."""

    def group(self, operations: Sequence[Change]) -> list[Answer]:
        """Does what is asked, in this order; an answer to each, once it is certain.

        A `Reserve` that does not fit is answered at once, by a `Refusal` that is `final` unless what is set
        aside for others may make room. Afterwards the `snapshot` is no older than the answers.
        """

    def rows(self, batch: Sequence[Row]) -> int:
        """Writes decisions and scores. Returns how many were dropped."""

    def look(self) -> None:
        """Sees what other processes did, and tries again what is owed.

        Called every second, and some twenty times a second while somebody waits for money.
        """

    def upkeep(self) -> None:
        """Frees what dead owners held, and says that this one lives. Called every ten seconds."""

    def visit(self, visit: Visit) -> None:
        """Runs a piece of work and keeps its result or its error."""

    def close(self) -> None:
        """Frees all that this owner holds, and lets go of whatever it uses."""
