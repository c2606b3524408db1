"""A queue in front of limits, in order of arrival.

State under a lock, the clock passed in. Nobody polls: whoever makes room (a request that ends, one that was
not sent, an answer that was shorter than feared) lets the first in the queue go and wakes only those, and the
first who cannot go yet knows when to look again.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from router.limits.counts import Counts
from router.limits.hall import Hall
from router.limits.seats import Seat, State
from router.limits.store import NO_LIMITS, Ask, LimitStore

__all__ = ["MOST_WAITING", "Line"]

#: Requests that may wait in one line; one more is turned away.
MOST_WAITING = 10_000
#: Seconds of work that a request is taken for at most: nothing infinite enters the sums.
MOST_WORK = 1e9
#: Requests that ask the store together.
MOST_ASKED = 64


class Line:
    """Who waits for the same limits, and who has had a turn and is not over.

    Attributes:
        gates: The limits that hold: the model's own first, then those of the task and of the router.
        asks: Whether a store is asked before anybody goes.
        paused_until: Before that the store need not be asked.
    """

    MOST_ASKED: ClassVar[int] = MOST_ASKED

    def __init__(self, gates: Sequence[Counts], store: LimitStore | None, hall: Hall) -> None:
        """Nobody came yet.

        Args:
            gates: The limits that hold.
            store: Where other processes' requests are counted, too; None: this process is alone.
            hall: Where other lines are that share some of the limits.
        """
        self._store = store
        self._hall = hall
        self.gates = tuple(gates)
        self._shared = tuple(gate for gate in self.gates if gate.limits != NO_LIMITS)
        self.asks = store is not None and bool(self._shared)
        self.paused_until = -math.inf
        self._queue: OrderedDict[int, Seat] = OrderedDict()
        self._work = 0.0  # of all that wait or run
        self._running = 0
        self._asking: list[Seat] = []
        self._asked = 0  # of these, those that have not left meanwhile
        self._pause: float | None = None  # seconds for which the store has nothing, since nobody knows when
        self._told: tuple[int, float] = (-1, math.inf)  # the first in the queue, and when it will look again

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._queue) + self._asked

    def join(self, tokens: float, now: float, work: float, *, at_once: bool = False) -> Seat:
        """A request arrives; it has its turn at once, or waits, or is turned away.

        Args:
            tokens: What it takes of a minute's tokens, at most.
            now: Seconds.
            work: Seconds that it is predicted to keep its place.
            at_once: Whether it is of no use to wait.
        """
        with self._hall.lock:
            seat = Seat(self, self._hall.number, math.ceil(tokens), min(max(0.0, work), MOST_WORK))
            if len(self._queue) >= MOST_WAITING:
                seat.state = State.OVER
                return seat
            self._hall.number += 1
            self._queue[seat.number] = seat
            self._line_up(1, seat.tokens)
            self._work += seat.work
            woken, asks = self._hall.pump(now)
        self._tell(woken, asks, seat, now)
        if at_once and seat.state is State.WAITING:
            self.leave(seat, now)
        return seat

    def claim(self, seat: Seat, now: float, wake: Callable[[], bool]) -> float:
        """Asks for one's turn. `wake` may be called from any thread, and returns False if it wakes nobody.

        Returns:
            When to ask again at the latest: infinite if `wake` will be called before that is of use.
        """
        with self._hall.lock:
            seat.wake = wake
            woken, asks = self._hall.pump(now)
            first = seat.state is State.WAITING and self.head is seat
            # While the store is asked for others, nothing can be said: its answer wakes the first.
            at = self._told[1] if first and not self._asking else math.inf
        self._tell(woken, asks, seat, now)
        return at

    def leave(self, seat: Seat, now: float, *, sent: bool = False) -> None:
        """A request is over, or does not wait any longer. Told twice, it changes nothing.

        `sent`: it went to the backend, and counts in its minute.
        """
        with self._hall.lock:
            if seat.state is State.OVER:
                return
            if sent and seat.granted:
                self.gates[0].pace.kept(now - seat.sent_at, seat.work)
            was_granted = self._remove(seat, sent=sent)
            woken, asks = self._hall.pump(now)
        if was_granted:
            self._give(seat, now, sent=sent)
        self._tell(woken, asks, None, now)

    def settle(self, seat: Seat, tokens: float, now: float) -> None:
        """A request took so many tokens. Less than it was taken for makes room for others."""
        with self._hall.lock:
            more = max(math.ceil(tokens), 1) - seat.tokens if seat.grains else 0
            for gate in self.gates:
                gate.correct(seat, more)
            seat.tokens += more
            woken, asks = self._hall.pump(now) if more < 0 else ([], [])
        if more and self._store is not None:
            for gate in self._shared:
                if gate.limits.tpm is not None:
                    self._store.correct(gate.name, more, age=now - seat.sent_at)
        self._tell(woken, asks, None, now)

    def after_fork(self) -> None:
        """In a child process: nothing of the parent's is running or waiting here."""
        self._hall.lock = threading.Lock()
        self._hall.waiting.clear()
        for gate in self.gates:
            gate.running = gate.queued = gate.queued_tokens = 0
        self._running, self._work = 0, 0.0
        self._queue = OrderedDict()
        self._asking, self._asked = [], 0
        self._pause, self._told, self.paused_until = None, (-1, math.inf), -math.inf

    # --- under the lock ---

    def _service(self) -> float:
        """Seconds that one of those who wait or run keeps its place, on average."""
        return self.gates[0].pace.factor * self._work / max(self._running + len(self._queue), 1)

    def _line_up(self, requests: int, tokens: int) -> None:
        for gate in self.gates:
            gate.line_up(requests, tokens)
        if self._queue:
            self._hall.waiting[self] = None
        else:
            self._hall.waiting.pop(self, None)

    @property
    def head(self) -> Seat:
        """Who came first of those that wait. The lock must be held, for all that follows, too."""
        return next(iter(self._queue.values()))

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._queue

    @property
    def is_asking(self) -> bool:
        """Whether the store is asked, and was not heard of yet."""
        return bool(self._asking)

    def let_go(self, now: float) -> Seat:
        """The first has its turn, or is asked for."""
        seat = self._queue.pop(self.head.number)
        self._line_up(-1, -seat.tokens)
        for gate in self.gates:
            gate.take(seat, now)
        self._running += 1
        seat.state = State.ASKED if self.asks else State.GRANTED
        return seat

    def ask(self, seats: list[Seat], now: float) -> Ask:
        """What to ask the store for those who were let go."""
        self._asking, self._asked = seats, len(seats)
        first, *others = self._shared
        also = tuple((gate.name, gate.allowed(now)) for gate in others)
        tokens = tuple(seat.tokens for seat in seats)
        return Ask(first.name, first.allowed(now), tokens, self._service(), also)

    def rest(self, now: float) -> None:
        """Leaves the store alone for as long as it said; its answer came without a clock."""
        if self._pause is not None:
            self.paused_until, self._pause = now + self._pause, None

    def first(self, at: float) -> list[Seat]:
        """The first in the queue, unless it will look again early enough by itself."""
        seat = self.head
        known, told = self._told
        self._told = seat.number, at
        return [] if seat.number == known and at >= told else [seat]

    def _remove(self, seat: Seat, *, sent: bool) -> bool:
        """Takes a request out of wherever it is. Returns whether it had its turn."""
        state, seat.state = seat.state, State.OVER
        if state is State.OVER:
            return False
        alone = self._running + len(self._queue) <= 1
        self._work = 0.0 if alone else max(self._work - seat.work, 0.0)  # sums of fractions drift
        if state is State.WAITING:
            del self._queue[seat.number]
            self._line_up(-1, -seat.tokens)
        else:
            for gate in self.gates:
                gate.leave(seat, sent=sent)
            self._running = max(self._running - 1, 0)
            self._asked -= state is State.ASKED
        return state is State.GRANTED

    # --- outside of it: what is called may call back ---

    def _give(self, seat: Seat, now: float, *, sent: bool) -> None:
        """Tells the store that a request is over."""
        if self._store is None:
            return
        for gate in self._shared:
            if gate.limits.max_concurrency or not sent:
                age = max(now - seat.sent_at, 0.0)
                self._store.give(gate.name, unsent=None if sent else seat.tokens, age=age)

    def _tell(self, woken: list[Seat], asks: list[tuple[Line, Ask]], own: Seat | None, now: float) -> None:
        """Wakes, and asks the store. `own`: its caller is awake, and looks by itself."""
        while woken or asks:
            for line, ask in asks:
                if line._store is not None:  # noqa: SLF001 - its own kind
                    line._store.take(ask, partial(line._answered, now))  # noqa: SLF001 - as above
            gone = [seat for seat in woken if seat is not own and seat.wake is not None and not seat.wake()]
            # Those whose loops are closed will never come: the next ones are let go instead.
            woken, asks = self._drop(gone, now)

    def _drop(self, seats: list[Seat], now: float) -> tuple[list[Seat], list[tuple[Line, Ask]]]:
        if not seats:
            return [], []
        with self._hall.lock:
            granted = [(seat.line, seat) for seat in seats if seat.line._remove(seat, sent=False)]  # noqa: SLF001 - as above
            woken, asks = self._hall.pump(now)
        for line, seat in granted:
            line._give(seat, now, sent=False)  # noqa: SLF001 - as above
        return woken, asks

    def _answered(self, asked_at: float, granted: int, pause: float) -> None:
        """The store said how many of those who asked may go. The others come first again, in their order."""
        with self._hall.lock:
            asked, self._asking, self._asked = self._asking, [], 0
            lost = [seat for seat in asked[:granted] if seat.state is State.OVER]
            woken = [seat for seat in asked[:granted] if seat.state is State.ASKED]
            for seat in woken:
                seat.state = State.GRANTED
            for seat in reversed(asked[granted:]):
                if seat.state is State.ASKED:
                    self._come_back(seat)
            if granted < len(asked):
                self._pause = pause
            # The first of each line has a clock, and asks on: room may have come back for all.
            for line in self._hall.waiting:
                line._told = (-1, math.inf)  # noqa: SLF001 - as above
                if not line._asking:  # noqa: SLF001 - as above
                    woken.append(line.head)
        for seat in lost:
            self._give(seat, asked_at, sent=False)
        self._tell(woken, [], None, asked_at)

    def _come_back(self, seat: Seat) -> None:
        """A request that the store has no room for waits again, before all others."""
        for gate in self.gates:
            gate.leave(seat, sent=False)
        self._running -= 1
        seat.state = State.WAITING
        self._queue[seat.number] = seat
        self._queue.move_to_end(seat.number, last=False)
        self._line_up(1, seat.tokens)
