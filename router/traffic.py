"""What this router has under way at each model, kept so that the next decision sees it at once.

A latency that was measured tells of the load a while ago. Ten thousand requests that arrive together would
all go where it was low; so each one is counted from the moment it starts. State under a lock; the clock is
passed in; by the models' names, so that it outlives a change of the fleet.
"""

from __future__ import annotations

import threading

__all__ = ["Flow", "Ticket", "Traffic"]

#: What is left of an attempt that has run for longer than was predicted: this share of the prediction.
LEAST_LEFT = 0.05
#: Seconds of work that one attempt is taken for at most: nothing infinite enters the sums.
MOST_WORK = 1e9


class Ticket:
    """One attempt under way.

    Attributes:
        name: Its model.
        work: Seconds that it was predicted to keep its backend busy, once begun.
        ahead: Other attempts that its backend was at work on when it began with this one.
        begun_at: When the backend began with it; None while it waits.
    """

    __slots__ = ("ahead", "begun_at", "name", "work")

    def __init__(self, name: str, work: float) -> None:
        self.name = name
        self.work = work
        self.ahead = 0
        self.begun_at: float | None = None


class Flow:
    """All attempts of one model that are under way.

    Attributes:
        waiting: Predicted seconds of work of those that have not begun.
        since: When the oldest of an unbroken run of attempts started.
    """

    __slots__ = ("_held", "_running", "since", "waiting")

    def __init__(self, now: float) -> None:
        self._running: dict[Ticket, None] = {}
        self._held: set[Ticket] = set()  # those that have not begun
        self.waiting = 0.0
        self.since = now

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._held) + len(self._running)

    @property
    def running(self) -> int:
        """How many have begun."""
        return len(self._running)

    def left(self, now: float) -> float:
        """Predicted seconds of work that are not done yet."""
        left = max(self.waiting, 0.0)
        for ticket in tuple(self._running):
            done = now - (now if ticket.begun_at is None else ticket.begun_at)
            left += max(ticket.work - max(done, 0.0), LEAST_LEFT * ticket.work)
        return left

    def enter(self, ticket: Ticket) -> None:
        """An attempt starts."""
        self._held.add(ticket)
        self.waiting += ticket.work

    def begin(self, ticket: Ticket, now: float) -> None:
        """The backend begins with an attempt. One that is over, or has begun, does not begin."""
        if ticket in self._held:
            ticket.begun_at, ticket.ahead = now, len(self._running)
            self._running[ticket] = None
            self._let_go(ticket)

    def leave(self, ticket: Ticket) -> None:
        """An attempt is over. One that is not here changes nothing."""
        if ticket in self._held:
            self._let_go(ticket)
        else:
            self._running.pop(ticket, None)

    def _let_go(self, ticket: Ticket) -> None:
        self._held.remove(ticket)
        # Sums of fractions drift.
        self.waiting = self.waiting - ticket.work if self._held else 0.0


class Traffic:
    """The attempts of one router that are under way, by model. Models without any are not listed.

    Attributes:
        flows: Read without a lock; changed under one.
    """

    def __init__(self) -> None:
        self.flows: dict[str, Flow] = {}
        self._lock = threading.Lock()

    def start(self, name: str, work: float, now: float) -> Ticket:
        """An attempt starts that is predicted to take `work` seconds once begun."""
        with self._lock:
            flow = self.flows.get(name)
            if flow is None:
                flow = self.flows[name] = Flow(now)
            ticket = Ticket(name, min(max(0.0, work), MOST_WORK))  # in this order a NaN is nothing
            flow.enter(ticket)
            return ticket

    def begin(self, ticket: Ticket, now: float) -> None:
        """The backend begins with an attempt. Told twice, the first time counts."""
        with self._lock:
            flow = self.flows.get(ticket.name)
            if flow is not None:
                flow.begin(ticket, now)

    def end(self, ticket: Ticket) -> None:
        """An attempt is over. Told twice, or to a router that knows nothing of it, it changes nothing."""
        with self._lock:
            flow = self.flows.get(ticket.name)
            if flow is None:
                return
            flow.leave(ticket)
            if not flow.count:
                del self.flows[ticket.name]

    def after_fork(self) -> None:
        """In a child process: nothing of the parent's is under way here."""
        self._lock = threading.Lock()
        self.flows = {}
