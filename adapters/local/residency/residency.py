"""The books: who is in memory, who may come in, and who leaves for it.

Nothing is loaded, freed or computed under the books' lock. An engine that wants to load asks here first, on
its own thread; others are asked to leave, and do so on theirs.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from adapters.local.residency.limits import Room, margin, room
from adapters.local.residency.prediction import Need
from adapters.local.residency.refusing import busy, hopeless
from adapters.local.residency.value import Held, Uses, leavers, occupied, value

__all__ = ["PATIENCE", "Account", "Engine", "Residency", "UnwantedError"]

#: Seconds that a load waits for models that are serving to become idle, before it is refused.
PATIENCE = 20.0
#: Seconds between two looks of those who wait: nobody tells when the machine has more to spare.
_LOOK = 1.0
_BRIEFLY = 0.05
#: Assumed until a load was measured.
_BYTES_PER_SECOND = 1e9


class UnwantedError(Exception):
    """Nobody wants the model any more: the load is given up."""


class Engine(Protocol):
    """An engine as the books know it. Called under their lock: returns at once, and never calls them back."""

    def idle(self) -> bool:
        """Whether nothing runs and nobody waits."""
        ...

    def leave(self) -> bool:
        """Gives its memory back soon, on its own thread, if it is idle. Returns whether it will."""
        ...

    def untaken(self) -> float:
        """The share of its shelf (`Held.shelf`) that is empty, as far as one knows."""
        ...


@dataclass(eq=False, slots=True, weakref_slot=True)
class Account:
    """What the books have of one engine.

    Attributes:
        name: The model's.
        engine: Whom to ask.
        limit: Bytes that all models together may take, as its router declares; None: as the machine has.
        state: `out`, then `entering` while it loads, `in`, `leaving` until its memory is free.
        held: What it holds, unless it is out.
        fixed: Bytes of its weights that the system cannot drop and read again; the rest counts as available.
        load_seconds: How long its last load took; None: it never was loaded.
        uses: How often it is used.
    """

    name: str
    engine: Engine
    limit: int | None = None
    state: Literal["out", "entering", "in", "leaving"] = "out"
    held: Held | None = None
    fixed: int = 0
    load_seconds: float | None = None
    uses: Uses = field(default_factory=Uses)


class Residency:
    """Books of one process. All methods may be called from any thread; only `enter` waits.

    Args:
        room: Tells what memory there is; None if it cannot.
        clock: Seconds on a clock that never goes backwards.
        patience: See `PATIENCE`.
    """

    def __init__(
        self,
        *,
        room: Callable[[], Room | None] = room,
        clock: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
    ) -> None:
        self._room = room
        self._clock = clock
        self._patience = patience
        self._lock = threading.Condition()
        self._accounts: weakref.WeakSet[Account] = weakref.WeakSet()
        self._waiting = 0

    def register(self, account: Account) -> None:
        """An engine that may want to load one day; its limit holds from now on."""
        with self._lock:
            self._accounts.add(account)

    def forget(self, account: Account) -> None:
        """An engine that was closed: its limit holds no more."""
        account.limit = None
        self.changed()

    def used(self, account: Account) -> None:
        """A request begins."""
        account.uses.note(self._clock())  # without the lock: a use that is lost in a race changes nothing

    def changed(self) -> None:
        """An engine became idle, or does not want to load any more: those who wait look again."""
        # Never for long: the collector may close an engine on a thread that holds another engine's lock, and
        # whoever holds this one may want that. Those who wait look again by themselves, only a little later.
        if self._waiting and self._lock.acquire(timeout=_BRIEFLY):
            self._lock.notify_all()
            self._lock.release()

    def enter(self, account: Account, need: Need, wanted: Callable[[], bool]) -> int:
        """Waits until there is room for a model, and sets it aside.

        Args:
            account: The engine's.
            need: What it will take.
            wanted: Whether anybody still wants it; called under the lock.

        Returns:
            The cells that it may have.

        Raises:
            UnwantedError: if it is not wanted any more.
            ModelLoadError: if it can never fit.
            ModelHTTPError: 503, if the models in its way went on serving for `patience` seconds.
        """
        end = self._clock() + self._patience
        with self._lock:
            self._waiting += 1
            granted = False
            try:
                leaving: list[Account] = []
                while account.state != "out":  # an earlier life of it
                    self._wait(account, need, wanted, end)
                while (cells := self._admit(account, need, leaving)) is None:
                    self._wait(account, need, wanted, end)
                granted = True
                while any(other.state == "leaving" for other in leaving):
                    self._wait(account, need, wanted, end)
            except BaseException:
                if granted:
                    self._clear(account)
                raise
            finally:
                self._waiting -= 1
            return cells

    def entered(self, account: Account, seconds: float, fixed: int | None) -> None:
        """A model was loaded.

        Args:
            account: The engine's.
            seconds: How long it took.
            fixed: Bytes of its weights that cannot be dropped; None: all, as far as one knows.
        """
        with self._lock:
            weights = account.held.weights if account.held is not None else 0
            account.fixed = weights if fixed is None else min(max(fixed, 0), weights)
            account.load_seconds = seconds
            account.state = "in"
            self._lock.notify_all()

    def left(self, account: Account) -> None:
        """The memory of a model is free again, or was never taken."""
        with self._lock:
            self._clear(account)

    def held(self) -> int:
        """Bytes that all models together hold."""
        with self._lock:
            return occupied(_holdings(self._accounts))

    def limit(self) -> int | None:
        """Bytes that all models together may take now; None: nobody can tell."""
        with self._lock:
            return self._limit()

    def after_fork(self) -> None:
        """In a forked child: nothing is loaded here, and another thread may have held the lock."""
        self._lock = threading.Condition()
        self._waiting = 0
        for account in self._accounts:
            account.state, account.held = "out", None

    # Under the lock

    def _clear(self, account: Account) -> None:
        account.state, account.held, account.fixed = "out", None, 0
        self._lock.notify_all()

    def _declared(self) -> int | None:
        return min((one.limit for one in self._accounts if one.limit is not None), default=None)

    def _limit(self) -> int | None:
        declared = self._declared()
        if declared is not None:
            return declared
        found = self._room()
        if found is None:
            return None
        # What is being loaded was not taken yet, or only in part: it does not count as ours.
        ours = [one for one in self._accounts if one.state in ("in", "leaving") and one.held is not None]
        own = sum(_taken(one.engine, one.held) for one in ours if one.held is not None)
        fixed = {one.held.source: one.fixed for one in ours if one.held is not None}
        return found.available + own + sum(fixed.values()) - margin(found.total)

    def _admit(self, account: Account, need: Need, leaving: list[Account]) -> int | None:
        """Sets memory aside and asks others to leave for it; None: not now.

        A model does with fewer cells before others have to leave for it, down to half of what it could do
        without; then the least valuable idle ones leave; then it gets as few cells as it must.
        """
        limit = self._limit()
        if limit is None:
            cells: int | None = need.window + need.extra
        else:
            # Its weights may be there already, held by another one, whom it does not help to send away then.
            itself = Held(0, need.weights, need.source)
            staying = [one for one in self._accounts if one.state in ("entering", "in")]
            free = limit - occupied([itself, *_holdings(staying)])
            cells = need.cells(free)
            if cells is None or cells < need.window + need.extra // 2:
                gained = self._make_room(need, itself, staying, free, leaving)
                cells = need.cells(free + gained)
        if cells is None:
            return None
        account.held = Held(need.own(cells), need.weights, need.source, need.shelf(cells))
        account.state = "entering"
        return cells

    def _make_room(
        self, need: Need, itself: Held, staying: Sequence[Account], free: int, leaving: list[Account]
    ) -> int:
        """Asks idle models to leave, if that helps; returns the bytes that it frees."""
        idle = [one for one in staying if one.state == "in" and one.engine.idle()]
        busy = [itself, *_holdings(one for one in staying if one not in idle)]
        now = self._clock()
        valued = [(one.held, self._value(one, now)) for one in idle if one.held is not None]
        for cells in (need.window + need.extra // 2, need.window):
            chosen = leavers(busy, valued, need.own(cells) - free)
            if chosen is not None:
                break
        else:
            return 0
        before = occupied([itself, *_holdings(staying)])
        for place in chosen:
            if idle[place].engine.leave():  # else it got work in this very moment
                idle[place].state = "leaving"
                leaving.append(idle[place])
        return before - occupied([itself, *_holdings(one for one in staying if one.state != "leaving")])

    def _value(self, account: Account, now: float) -> float:
        if account.held is None:
            return 0.0
        size = account.held.own + account.held.weights
        seconds = account.load_seconds or size / _BYTES_PER_SECOND
        return value(account.uses.count(now), seconds, size)

    def _wait(self, account: Account, need: Need, wanted: Callable[[], bool], end: float) -> None:
        """Waits for any change.

        Raises:
            UnwantedError, ModelLoadError, ModelHTTPError: see `enter`.
        """
        if not wanted():
            raise UnwantedError
        limit, declared = self._limit(), self._declared()
        if limit is not None and account.state == "out":
            # If all others left, the rest of their weights would be free, too.
            possible = limit if declared is not None else limit + self._droppable()
            if need.cells(possible - need.weights) is None:
                raise hopeless(account.name, need, possible, declared=declared is not None)
        left = end - self._clock()
        if left <= 0:
            holders = [
                (one.name, one.held, one.engine.idle()) for one in self._accounts if one.held is not None
            ]
            raise busy(account.name, need, limit, holders, patience=self._patience)
        self._lock.wait(min(left, _LOOK))

    def _droppable(self) -> int:
        """Bytes of weights that `_limit` counts as available already, or not at all while they are loaded."""
        everything = {one.held.source: one.held.weights for one in self._accounts if one.held is not None}
        fixed = {one.held.source: one.fixed for one in self._accounts if one.held is not None}
        return sum(everything.values()) - sum(fixed.values())


def _holdings(accounts: Iterable[Account]) -> list[Held]:
    return [one.held for one in accounts if one.held is not None]


def _taken(engine: Engine, held: Held) -> int:
    """Bytes beside the weights that a model that was loaded takes now."""
    return held.own - int(held.shelf * engine.untaken())
