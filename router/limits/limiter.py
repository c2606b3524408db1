"""What one model may take, and the queue of those who wait for their turn.

State under a lock, the clock passed in. Nobody polls: whoever makes room (a request that ends, one that was
not sent, an answer that was shorter than feared) lets the first in the queue go and wakes only those, and the
first who cannot go yet knows when to look again.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from router.limits.counts import Counts
from router.limits.seats import Seat, State
from router.limits.store import Ask, Limits, LimitStore
from router.profile import Profile

__all__ = ["MOST_WAITING", "Limiter"]

#: Requests that may wait for one model; one more is turned away.
MOST_WAITING = 10_000
#: Seconds of work that a request is taken for at most: nothing infinite enters the sums.
MOST_WORK = 1e9
#: Requests that ask the store together.
MOST_ASKED = 64


class Limiter:
    """What one model may take in a minute and at once, and a queue in order of arrival."""

    def __init__(self, limits: Limits, *, model: str = "", store: LimitStore | None = None) -> None:
        """Nothing was sent yet.

        Args:
            limits: What the model declares.
            model: Its name, for the store.
            store: Where other processes' requests to it are counted, too; None: this process is alone.
        """
        self._limits = limits
        self._model = model
        self._store = store
        self._lock = threading.Lock()
        self._counts = Counts(limits)
        self._queue: OrderedDict[int, Seat] = OrderedDict()
        self._queued_tokens = 0
        self._work = 0.0  # of all that wait or run
        self._number = 0
        self._asking: list[Seat] = []
        self._asked = 0  # of these, those that have not left meanwhile
        self._pause: float | None = None  # seconds for which the store has nothing, since nobody knows when
        self._told: tuple[int, float] = (-1, math.inf)  # the first in the queue, and when it will look again

    @classmethod
    def of(cls, profile: Profile, model: str = "", store: LimitStore | None = None) -> Limiter | None:
        """A limiter for a model; None if it declares no limit."""
        limits = Limits(profile.rpm, profile.tpm, profile.max_concurrency)
        return None if limits == (None, None, None) else cls(limits, model=model, store=store)

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._queue) + self._asked

    @property
    def running(self) -> int:
        """How many requests have their turn and are not over."""
        return self._counts.running - self._asked

    def wait(self, tokens: float, now: float) -> float:
        """Seconds that one more request of so many tokens would wait, behind all who wait now."""
        with self._lock:
            return self._forecast(len(self._queue), self._queued_tokens, math.ceil(tokens), now)

    def left(self, seat: Seat, now: float) -> float:
        """Seconds that a request in the queue will still wait, about."""
        with self._lock:
            if seat.state is not State.WAITING:
                return 0.0
            # Of those who were before it some may have left: it is no later than that.
            ahead = min(seat.number - next(iter(self._queue)), len(self._queue) - 1)
            mean = self._queued_tokens // len(self._queue)
            return self._forecast(ahead, ahead * mean, seat.tokens, now)

    def join(self, tokens: float, now: float, work: float, *, at_once: bool = False) -> Seat:
        """A request arrives; it has its turn at once, or waits, or is turned away.

        Args:
            tokens: What it takes of a minute's tokens, at most.
            now: Seconds.
            work: Seconds that it is predicted to keep its place.
            at_once: Whether it is of no use to wait.
        """
        with self._lock:
            seat = Seat(self._number, math.ceil(tokens), min(max(0.0, work), MOST_WORK))
            if len(self._queue) >= MOST_WAITING:
                seat.state = State.OVER
                return seat
            self._number += 1
            self._queue[seat.number] = seat
            self._queued_tokens += seat.tokens
            self._work += seat.work
            woken, ask = self._pump(now)
        self._tell(woken, ask, seat, now)
        if at_once and seat.state is State.WAITING:
            self.leave(seat, now)
        return seat

    def claim(self, seat: Seat, now: float, wake: Callable[[], bool]) -> float:
        """Asks for one's turn. `wake` may be called from any thread, and returns False if it wakes nobody.

        Returns:
            When to ask again at the latest: infinite if `wake` will be called before that is of use.
        """
        with self._lock:
            seat.wake = wake
            woken, ask = self._pump(now)
            first = seat.state is State.WAITING and next(iter(self._queue)) == seat.number
            # While the store is asked for others, nothing can be said: its answer wakes the first.
            at = self._told[1] if first and not self._asking else math.inf
        self._tell(woken, ask, seat, now)
        return at

    def leave(self, seat: Seat, now: float, *, sent: bool = False) -> None:
        """A request is over, or does not wait any longer. Told twice, it changes nothing.

        `sent`: it went to the backend, and counts in its minute.
        """
        with self._lock:
            if seat.state is State.OVER:
                return
            was_granted = self._remove(seat, sent=sent)
            woken, ask = self._pump(now)
        if was_granted and self._store is not None and (self._limits.max_concurrency or not sent):
            self._store.give(self._model, unsent=None if sent else seat.tokens, age=now - seat.sent_at)
        self._tell(woken, ask, None, now)

    def settle(self, seat: Seat, tokens: float, now: float) -> None:
        """A request took so many tokens. Less than it was taken for makes room for others."""
        with self._lock:
            more = self._counts.settle(seat, math.ceil(tokens))
            woken, ask = self._pump(now) if more < 0 else ([], None)
        if more and self._store is not None and self._limits.tpm is not None:
            self._store.correct(self._model, more, age=now - seat.sent_at)
        self._tell(woken, ask, None, now)

    def refused(self, seat: Seat, wait: float | None, now: float, *, doubt: bool = True) -> None:
        """The backend refused a request, and asked to wait for so many seconds; None: it did not say.

        `doubt`: because of a limit, so that less of what is declared is believed for a while.
        """
        with self._lock:
            if doubt:
                self._counts.belief.refused(seat.sent_at, wait, now)
            elif wait is not None:
                self._counts.belief.block(now + wait)

    def after_fork(self) -> None:
        """In a child process: nothing of the parent's is running or waiting here."""
        self._lock = threading.Lock()
        self._counts.running, self._work = 0, 0.0
        self._queue, self._queued_tokens = OrderedDict(), 0
        self._asking, self._asked = [], 0
        self._pause, self._told = None, (-1, math.inf)

    # --- under the lock ---

    def _service(self) -> float:
        """Predicted seconds that one of those who wait or run keeps its place, on average."""
        return self._work / max(self._counts.running + len(self._queue), 1)

    def _forecast(self, ahead: int, tokens_ahead: int, tokens: int, now: float) -> float:
        return self._counts.forecast(ahead, tokens_ahead, max(tokens, 1), self._service(), now)

    def _pump(self, now: float) -> tuple[list[Seat], Ask | None]:
        """Lets go who may go. Returns who is to be woken, and what to ask the store."""
        if self._pause is not None:
            self._counts.belief.block(now + self._pause)
            self._pause = None
        if not self._queue or self._asking:
            return [], None
        allowed = self._counts.allowed(now)
        taken: list[Seat] = []
        at = now
        while self._queue and (self._store is None or len(taken) < MOST_ASKED):
            seat = next(iter(self._queue.values()))
            at = self._counts.free_at(seat.tokens, allowed, now)
            if at > now:
                break
            del self._queue[seat.number]
            self._queued_tokens -= seat.tokens
            self._counts.take(seat, now)
            seat.state = State.GRANTED if self._store is None else State.ASKED
            taken.append(seat)
        if self._store is not None and taken:
            self._asking, self._asked = taken, len(taken)
            return [], Ask(self._model, allowed, tuple(seat.tokens for seat in taken), self._service())
        return [*taken, *self._first(at)], None

    def _first(self, at: float) -> list[Seat]:
        """The first in the queue, unless it will look again early enough by itself."""
        if not self._queue:
            return []
        number, seat = next(iter(self._queue.items()))
        known, told = self._told
        self._told = number, at
        return [] if number == known and at >= told else [seat]

    def _remove(self, seat: Seat, *, sent: bool) -> bool:
        """Takes a request out of wherever it is. Returns whether it had its turn."""
        state, seat.state = seat.state, State.OVER
        if state is State.OVER:
            return False
        alone = self._counts.running + len(self._queue) <= 1
        self._work = 0.0 if alone else max(self._work - seat.work, 0.0)  # sums of fractions drift
        if state is State.WAITING:
            del self._queue[seat.number]
            self._queued_tokens -= seat.tokens
        else:
            self._counts.leave(seat, sent=sent)
            self._asked -= state is State.ASKED
        return state is State.GRANTED

    # --- outside of it: what is called may call back ---

    def _tell(self, woken: list[Seat], ask: Ask | None, own: Seat | None, now: float) -> None:
        """Wakes, and asks the store. `own`: its caller is awake, and looks by itself."""
        while woken or ask is not None:
            if ask is not None and self._store is not None:
                self._store.take(ask, partial(self._answered, now))
            gone = [seat for seat in woken if seat is not own and seat.wake is not None and not seat.wake()]
            # Those whose loops are closed will never come: the next ones are let go instead.
            woken, ask = self._drop(gone, now)

    def _drop(self, seats: list[Seat], now: float) -> tuple[list[Seat], Ask | None]:
        if not seats:
            return [], None
        with self._lock:
            granted = [seat for seat in seats if self._remove(seat, sent=False)]
            woken, ask = self._pump(now)
        self._give_unsent(granted, now)
        return woken, ask

    def _give_unsent(self, seats: list[Seat], now: float) -> None:
        if self._store is not None:
            for seat in seats:
                self._store.give(self._model, unsent=seat.tokens, age=max(now - seat.sent_at, 0.0))

    def _answered(self, asked_at: float, granted: int, pause: float) -> None:
        """The store said how many of those who asked may go. The others come first again, in their order."""
        with self._lock:
            asked, self._asking, self._asked = self._asking, [], 0
            lost = [seat for seat in asked[:granted] if seat.state is State.OVER]
            woken = [seat for seat in asked[:granted] if seat.state is State.ASKED]
            for seat in woken:
                seat.state = State.GRANTED
            for seat in reversed(asked[granted:]):
                if seat.state is State.ASKED:
                    self._counts.leave(seat, sent=False)
                    seat.state = State.WAITING
                    self._queue[seat.number] = seat
                    self._queue.move_to_end(seat.number, last=False)
                    self._queued_tokens += seat.tokens
            if granted < len(asked):
                self._pause = pause
            self._told = (-1, math.inf)
            if self._queue:  # the first has a clock, and asks on
                woken.append(next(iter(self._queue.values())))
        self._give_unsent(lost, asked_at)
        self._tell(woken, None, None, asked_at)
