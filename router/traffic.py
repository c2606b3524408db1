"""What this router has under way at each model, kept so that the next decision sees it at once.

A latency that was measured tells of the load a while ago. Ten thousand requests that arrive together would
all go where it was low; so each one is counted from the moment it starts. State under a lock; the clock is
passed in; by the models' names, so that it outlives a change of the fleet.
"""

from __future__ import annotations

import math
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
        passed: The flow's `passed` then.
        shared: Of `work`, the seconds that others under way make longer ...
        slow: ... and how many times as long they were taken to become.
    """

    __slots__ = ("ahead", "begun_at", "name", "passed", "shared", "slow", "work")

    def __init__(self, name: str, work: float, shared: float = 0.0, slow: float = 1.0) -> None:
        self.name = name
        self.work = work
        self.shared = shared
        self.slow = slow
        self.ahead = 0
        self.begun_at: float | None = None
        self.passed = 0.0

    def left(self, now: float, slow: float = 1.0) -> float:
        """Predicted seconds of work that are not done yet, where answers take `slow` times as long as alone.

        When it was predicted, those that came after it were not there.
        """
        work = self.work + self.shared * max(slow / self.slow - 1.0, 0.0)
        done = 0.0 if self.begun_at is None else max(now - self.begun_at, 0.0)
        return max(work - done, LEAST_LEFT * work)


class Flow:
    """All attempts of one model that are under way.

    Attributes:
        waiting: Predicted seconds of work of those that have not begun.
        since: When the oldest of an unbroken run of attempts started.
        passed: Seconds that attempts have been at work, of all together.
    """

    __slots__ = ("_held", "_moved_at", "_running", "passed", "since", "waiting")

    def __init__(self, now: float) -> None:
        self._running: dict[Ticket, None] = {}
        self._held: set[Ticket] = set()  # those that have not begun
        self.waiting = 0.0
        self.since = self._moved_at = now
        self.passed = 0.0

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
        return sum((ticket.left(now) for ticket in tuple(self._running)), max(self.waiting, 0.0))

    def seat_in(self, slots: int, now: float, slow: float = 1.0) -> float:
        """Seconds until there is a slot for one more, in turn, at a backend that works on so many at once.

        Whoever waits takes the slot that is free first, for as long as those who wait take on average.

        Args:
            slots: How many.
            now: Seconds.
            slow: How many times as long as alone answers take while all slots are taken.
        """
        left = sorted(ticket.left(now, slow) for ticket in tuple(self._running))
        left = [0.0] * (slots - len(left)) + left
        held = [ticket.left(now, slow) for ticket in tuple(self._held)]
        each = sum(held) / len(held) if held else 0.0
        return left[len(held) % slots] + len(held) // slots * each

    def enter(self, ticket: Ticket) -> None:
        """An attempt starts."""
        self._held.add(ticket)
        self.waiting += ticket.work

    def begin(self, ticket: Ticket, now: float) -> None:
        """The backend begins with an attempt. One that is over, or has begun, does not begin."""
        if ticket in self._held:
            self._move(now)
            ticket.begun_at, ticket.ahead, ticket.passed = now, len(self._running), self.passed
            self._running[ticket] = None
            self._let_go(ticket)

    def company(self, ticket: Ticket, now: float) -> float:
        """How many others the backend was at work on, on average, since it began with an attempt."""
        if ticket not in self._running or ticket.begun_at is None:
            return 0.0
        self._move(now)
        seconds = now - ticket.begun_at
        return max((self.passed - ticket.passed) / seconds - 1.0, 0.0) if seconds > 0.0 else ticket.ahead

    def _move(self, now: float) -> None:
        if now > self._moved_at:
            self.passed += (now - self._moved_at) * len(self._running)
            self._moved_at = now

    def leave(self, ticket: Ticket, now: float) -> None:
        """An attempt is over. One that is not here changes nothing."""
        self._move(now)
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

    def start(self, name: str, work: float, now: float, *, shared: float = 0.0, slow: float = 1.0) -> Ticket:
        """An attempt starts that is predicted to take `work` seconds once begun; see `Ticket`."""
        with self._lock:
            flow = self.flows.get(name)
            if flow is None:
                flow = self.flows[name] = Flow(now)
            work = min(max(0.0, work), MOST_WORK)  # in this order a NaN is nothing
            ticket = Ticket(name, work, min(max(0.0, shared), work), max(slow, 1.0))
            flow.enter(ticket)
            return ticket

    def begin(self, ticket: Ticket, now: float) -> None:
        """The backend begins with an attempt. Told twice, the first time counts."""
        with self._lock:
            flow = self.flows.get(ticket.name)
            if flow is not None:
                flow.begin(ticket, now)

    def company(self, ticket: Ticket, now: float) -> float:
        """How many others the backend was at work on, on average, since it began with an attempt.

        What it was at work on when the attempt began tells less: of ten that come at once, the first finds
        nobody there, and is slowed down as much as the last.
        """
        with self._lock:
            flow = self.flows.get(ticket.name)
            return 0.0 if flow is None else flow.company(ticket, now)

    def end(self, ticket: Ticket, now: float = -math.inf) -> None:
        """An attempt is over. Told twice, or to a router that knows nothing of it, it changes nothing.

        `now` may be left out where nobody asks for the company of others.
        """
        with self._lock:
            flow = self.flows.get(ticket.name)
            if flow is None:
                return
            flow.leave(ticket, now)
            if not flow.count:
                del self.flows[ticket.name]

    def after_fork(self) -> None:
        """In a child process: nothing of the parent's is under way here."""
        self._lock = threading.Lock()
        self.flows = {}
