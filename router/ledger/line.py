"""Who waits for money, in order. Pure: told how the budgets stand, it says who should be tried or refused.

What is set aside for requests under way may come back, so a request that finds too little left need not be
refused: it waits. First come, first served, among those who need the same budgets. The first of them keeps
what it asks for from all who came after it, in every budget that it needs: a small request never overtakes
a large one that waits for the same money, and whoever waits for one task's budget holds up no other task.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from router.ledger.money import Account, Refusal, Standing

if TYPE_CHECKING:
    from router.allowances import Budget
    from router.ledger.operations import Reserve

__all__ = ["Line"]

_Places = tuple[int, ...]
#: Entries of those who have left that a heap may hold, besides as many as there are others.
SPARE = 64


class _Queue:
    """Those who need the same budgets, in order of arrival, and at hand the one that asks for most."""

    __slots__ = ("_largest", "asks")

    def __init__(self) -> None:
        self.asks: OrderedDict[int, Reserve] = OrderedDict()
        self._largest: list[tuple[int, int]] = []  # a heap; of those who have left, some are still here

    def add(self, number: int, ask: Reserve) -> None:
        if len(self._largest) > 2 * len(self.asks) + SPARE:
            self._largest = [(-one.units, at) for at, one in self.asks.items()]
            heapq.heapify(self._largest)
        self.asks[number] = ask
        heapq.heappush(self._largest, (-ask.units, number))

    def most(self) -> Reserve:
        """The one that asks for most."""
        while self._largest[0][1] not in self.asks:
            heapq.heappop(self._largest)
        return self.asks[self._largest[0][1]]


class Line:
    """The waiting requests of one process."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self._accounts = [Account.of(budget) for budget in budgets]
        self._queues: dict[_Places, _Queue] = {}
        self._where: dict[str, tuple[_Places, int]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def see(self, standings: Sequence[Standing]) -> None:
        """Takes in how the budgets stand."""
        for account, now in zip(self._accounts, standings, strict=False):
            account.start, account.end = now.start, now.end
            account.settled, account.reserved = account.limit - now.free, now.free - now.left

    def join(self, ask: Reserve) -> None:
        """A request begins to wait, behind all who need the same money."""
        places = tuple(
            place for place, account in enumerate(self._accounts) if account.covers(ask.model, ask.task)
        )
        self._where[ask.key] = places, self._number
        self._queues.setdefault(places, _Queue()).add(self._number, ask)
        self._number += 1

    def leave(self, key: str) -> Reserve | None:
        """A request is answered, or waits no longer; None if it did not wait."""
        if key not in self._where:
            return None
        places, number = self._where.pop(key)
        queue = self._queues[places]
        ask = queue.asks.pop(number)
        if not queue.asks:
            del self._queues[places]
        return ask

    def refusal(self, ask: Reserve) -> Refusal:
        """Why a request cannot go: by a budget that is spent, else by the one that has least left."""
        covering = (account for account in self._accounts if account.covers(ask.model, ask.task))
        return min(covering, key=lambda one: (ask.units <= one.free, one.left)).refusal(ask.units)

    def hopeless(self) -> list[Reserve]:
        """Those who ask for more than there would be if all that is set aside came back. They leave."""
        gone: list[Reserve] = []
        for places, queue in list(self._queues.items()):
            most = min((self._accounts[place].free for place in places), default=0)
            while queue.asks and (ask := queue.most()).units > most:
                self.leave(ask.key)
                gone.append(ask)
        return gone

    def ready(self) -> list[Reserve]:
        """Those for whom there is money, in their order. They stay until it is certain."""
        left = [account.left for account in self._accounts]
        found: list[Reserve] = []
        walks = {places: iter(queue.asks.items()) for places, queue in self._queues.items()}
        heads = [(*next(walk), places) for places, walk in walks.items()]
        heapq.heapify(heads)  # by their numbers, of which there is one each
        while heads:
            _, ask, places = heapq.heappop(heads)
            fits = all(ask.units <= left[place] for place in places)
            for place in places:
                left[place] -= ask.units  # kept for it, too, while it waits
            if fits:
                found.append(ask)
                following = next(walks[places], None)
                if following is not None:
                    heapq.heappush(heads, (*following, places))
        return found

    def everybody(self) -> list[Reserve]:
        """Empties the line."""
        return [ask for key in list(self._where) if (ask := self.leave(key)) is not None]
