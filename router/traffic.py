"""What this router has under way at each model, kept so that the next decision sees it at once.

A latency that was measured tells of the load a while ago. Ten thousand requests that arrive together would
all go where it was low; so each one is counted from the moment it starts. State under a lock; the clock is
passed in; by the models' names, so that it outlives a change of the fleet.
"""

from __future__ import annotations

import math
import threading
from itertools import islice

from router.learning.lognormal import surprise

__all__ = ["Flow", "Ticket", "Traffic"]

#: What is left of an attempt that has run for longer than was predicted: this share of the prediction.
LEAST_LEFT = 0.05
#: Seconds of work that one attempt is taken for at most: nothing infinite enters the sums.
MOST_WORK = 1e9
#: How unlikely the silence of a model must be before it is passed over, as a negative logarithm: one in ten
#: thousand, of calls that are taken to be independent.
TELLING = 9.2
#: Silence for less than this share of what the oldest call was predicted to take tells nothing: usually one
#: comparison is all that a model costs a decision.
UNTOLD = 0.5
#: Calls whose silence is added up at most, the oldest.
MOST_HEEDED = 24
#: Calls that a model may leave unanswered at once before it answered any, while another may be asked.
UNPROVEN = 8
#: No model is so steady that half again as long is out of the question.
LEAST_DOUBT = 0.25


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
        due: Seconds from its beginning in which half of such attempts show a first sign of life: a token, or
            the answer; infinite if nobody knows.
        doubt: The standard deviation of its logarithm.
    """

    __slots__ = ("ahead", "begun_at", "doubt", "due", "name", "passed", "shared", "slow", "work")

    def __init__(self, name: str, work: float, shared: float = 0.0, slow: float = 1.0) -> None:
        self.name = name
        self.work = work
        self.shared = shared
        self.slow = slow
        self.due = math.inf
        self.doubt = 1.0
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
        heard_at: When the model showed a sign of life last.
    """

    __slots__ = ("_held", "_moved_at", "_running", "_silent", "heard_at", "passed", "since", "waiting")

    def __init__(self, now: float) -> None:
        self._running: dict[Ticket, None] = {}
        self._held: set[Ticket] = set()  # those that have not begun
        self._silent: dict[Ticket, None] = {}  # those that have, and showed nothing; the oldest first
        self.heard_at = -math.inf
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
            self._running[ticket] = self._silent[ticket] = None
            self._let_go(ticket)

    def hear(self, ticket: Ticket, now: float) -> None:
        """An attempt shows a sign of life. Whatever it began with before is no silence any more."""
        if ticket in self._running:
            self._silent.pop(ticket, None)
            self.heard_at = max(self.heard_at, now)

    def silence(self, now: float) -> float:
        """How unlikely it is that nothing was heard for so long: a negative logarithm, 0 for nothing unusual.

        From before the last sign of life nothing counts: who answers others is only busy with these. The rest
        adds up over the calls, so that many that are a little late tell as much as one that is very late.
        """
        told = 0.0
        for ticket in islice(tuple(self._silent), MOST_HEEDED):
            silent = now - max(self.heard_at, ticket.begun_at or 0.0)
            if silent < UNTOLD * ticket.due:
                break
            told += surprise(silent / ticket.due, ticket.doubt)
            if told >= TELLING:
                break
        return told

    def mute_for(self, now: float) -> float:
        """Seconds for which the oldest call that has begun and shown nothing has heard of nobody, either."""
        oldest = next(iter(tuple(self._silent)), None)
        return 0.0 if oldest is None else now - max(self.heard_at, oldest.begun_at or 0.0)

    @property
    def unanswered(self) -> int:
        """How many have begun and shown nothing yet."""
        return len(self._silent)

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
            self._silent.pop(ticket, None)

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

    def start(
        self,
        name: str,
        work: float,
        now: float,
        *,
        shared: float = 0.0,
        slow: float = 1.0,
        due: float = math.inf,
        doubt: float = 1.0,
    ) -> Ticket:
        """An attempt starts that is predicted to take `work` seconds once begun; see `Ticket`."""
        with self._lock:
            flow = self.flows.get(name)
            if flow is None:
                flow = self.flows[name] = Flow(now)
            work = min(max(0.0, work), MOST_WORK)  # in this order a NaN is nothing
            ticket = Ticket(name, work, min(max(0.0, shared), work), max(slow, 1.0))
            if due > 0.0:  # not a NaN
                ticket.due, ticket.doubt = due, max(LEAST_DOUBT, doubt)
            flow.enter(ticket)
            return ticket

    def enter(self, ticket: Ticket, now: float) -> None:
        """An attempt that had left before it began (to wait elsewhere) starts again."""
        with self._lock:
            flow = self.flows.get(ticket.name)
            if flow is None:
                flow = self.flows[ticket.name] = Flow(now)
            flow.enter(ticket)

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

    def hear(self, ticket: Ticket, now: float) -> None:
        """An attempt shows a sign of life: its first token, an answer, a refusal."""
        with self._lock:
            flow = self.flows.get(ticket.name)
            if flow is not None:
                flow.hear(ticket, now)

    def end(self, ticket: Ticket, now: float = -math.inf, *, heard: bool = False) -> None:
        """An attempt is over. Told twice, or to a router that knows nothing of it, it changes nothing.

        `now` may be left out where nobody asks for the company of others. `heard`: it was the backend that
        ended it.
        """
        with self._lock:
            flow = self.flows.get(ticket.name)
            if flow is None:
                return
            if heard:
                flow.hear(ticket, now)
            flow.leave(ticket, now)
            if not flow.count:
                del self.flows[ticket.name]

    def after_fork(self) -> None:
        """In a child process: nothing of the parent's is under way here."""
        self._lock = threading.Lock()
        self.flows = {}
