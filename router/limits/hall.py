"""Where requests line up: one line for each kind that stands under the same limits.

A request may stand under several: its model's, its task's, the router's. It has its turn when all of them
have room for it at the same time, and takes from none before. The lines are looked at in the order in which
those at their heads came; one who is held back lets by those who do not need what it waits for. What it does
not lack is kept for it if the rest comes soon: else it could be passed by for ever.
"""

from __future__ import annotations

import heapq
import math
import threading
from typing import TYPE_CHECKING

from router.limits.counts import Counts
from router.limits.seats import Seat
from router.limits.store import Ask, Limits

if TYPE_CHECKING:
    from router.limits.line import Line

__all__ = ["Hall"]

#: Seconds for which room at one limit is kept for a request that waits for another.
KEPT_FOR = 1.0


class Hall:
    """Lines that share limits, one lock for all of them, and one order of arrival.

    Attributes:
        lock: Held while anything of its lines or their limits is looked at or changed.
        waiting: The lines in which somebody waits.
        number: Of the next request.
    """

    __slots__ = ("lock", "number", "waiting")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: dict[Line, None] = {}
        self.number = 0

    def pump(self, now: float) -> tuple[list[Seat], list[tuple[Line, Ask]]]:
        """Lets go who may go. Returns who is to be woken, and what lines ask their store."""
        lines = [line for line in self.waiting if not line.is_asking]
        for line in lines:
            line.rest(now)
        heads = [(line.head.number, place) for place, line in enumerate(lines)]
        heapq.heapify(heads)
        woken: list[Seat] = []
        room = _Room(now)
        taken: dict[Line, list[Seat]] = {}
        while heads:
            _, place = heads[0]
            line = lines[place]
            at = room.free_at(line)
            if at > now or (line.asks and len(taken.get(line, ())) >= line.MOST_ASKED):
                heapq.heappop(heads)
                if at > now:
                    room.keep(line, at)
                    woken += line.first(at)
                continue
            taken.setdefault(line, []).append(line.let_go(now))
            if line.is_empty:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (line.head.number, place))
        asks = []
        for line, seats in taken.items():
            if line.asks:
                asks.append((line, line.ask(seats, now)))
            else:
                woken = seats + woken
        return woken, asks


class _Room:
    """What limits have room for, less what is kept for those who came earlier and wait for something else."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._allowed: dict[Counts, Limits] = {}
        self._kept: dict[Counts, tuple[int, int]] = {}

    def free_at(self, line: Line) -> float:
        """When the first of a line may go: now, later, or infinite."""
        return max(line.paused_until, *(self._at(gate, line.head) for gate in line.gates))

    def _at(self, gate: Counts, seat: Seat) -> float:
        allowed = self._allowed.get(gate)
        if allowed is None:
            allowed = self._allowed[gate] = gate.allowed(self._now)
        return gate.free_at(seat.tokens, allowed, self._now, self._kept.get(gate, (0, 0)))

    def keep(self, line: Line, at: float) -> None:
        """The first of a line does not go before a time."""
        soon = at == math.inf or at - self._now <= KEPT_FOR
        for gate in line.gates:
            if soon or self._at(gate, line.head) > self._now:
                requests, tokens = self._kept.get(gate, (0, 0))
                self._kept[gate] = requests + 1, tokens + line.head.tokens
