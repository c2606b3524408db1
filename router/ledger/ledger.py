"""The ledger as the rest of the library sees it. Importing it does not import sqlite3."""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from router.ledger.desk import Desk, FarDesk, let_go
from router.ledger.money import Refusal, clean, to_units, to_usd
from router.ledger.openings import Openings
from router.ledger.records import Exchange, Feedback
from router.ledger.reports import READ_WAITS, Reports
from router.ledger.rows import attempt_money
from router.ledger.sharing import SharedLimits
from router.ledger.standing import Standings

if TYPE_CHECKING:
    from pydantic import SecretStr

    from router.allowances import Budget
    from router.decision import Decision
    from router.ledger.operations import Reserve

__all__ = ["Ledger"]


class Ledger(Reports):
    """The durable record of decisions and outcomes, and the books of the budgets.

    Used from any thread and any event loop. Nothing here does I/O on the caller's thread but the
    constructor and what reads (`decisions`, `spent`, `totals`, `recent`), `flush` and `close`; an event loop
    calls those on another thread.

    In a process that was forked it goes on with a connection of its own; what the parent had queued, the
    parent writes. A ledger in memory is per process: the child's begins empty.
    """

    def __init__(
        self,
        path: Path | None,
        budgets: Sequence[Budget] = (),
        *,
        keep_text: bool = False,
        wall: Callable[[], float] = time.time,
        shared: SecretStr | None = None,
    ) -> None:
        """Opens the file, and creates it where there is none.

        Args:
            path: An SQLite file, shared by any number of processes of one machine; None: in memory, where
                the newest 10,000 decisions are kept.
            budgets: All of them hold.
            keep_text: Whether prompts and answers are kept; those of private requests never are.
            wall: The Unix time in seconds; periods of budgets go by it.
            shared: The URL of a server that keeps budgets and limits for several machines, instead of the
                file; periods go by its clock then. While it does not answer, nothing is reserved.

        Raises:
            ConfigurationError: if the file cannot be opened or written, is no ledger, or is of a newer
                version of this library, or the URL is none.
        """
        self._budgets = tuple(budgets)
        self._path, self._keep_text, self._wall = path, keep_text, wall
        self._desk = Desk(path, self._budgets if shared is None else (), wall)
        #: Where money is, and the limits that are shared.
        self._till = self._desk if shared is None else FarDesk(shared, self._budgets, wall)
        far = self._till is not self._desk
        #: What models with limits are sent, shared by the processes that use the file or the server; None in
        #: memory.
        self.limits = SharedLimits(self._till, wall) if far or path is not None else None
        #: How the budgets stand.
        self.standings = Standings(self._till, self._budgets, wall)
        self._openings = Openings()
        # Not at exit: there, all running writers end together. Nor may a collection wait for a thread.
        self._desks = tuple({id(desk): desk for desk in (self._desk, self._till)}.values())
        for desk in self._desks:
            weakref.finalize(self, let_go, desk).atexit = False
        if far or (path is not None and budgets):
            self._till.flush(READ_WAITS)  # what is left is known from the beginning

    @property
    def dropped(self) -> int:
        """Decisions and scores that this process did not write: too many at once, or the file failed."""
        return self._desk.dropped

    def record(self, decision: Decision, *, exchange: Exchange | None = None) -> None:
        """Takes a finished decision; it is written within 200 ms. Never waits and never fails.

        The costs of attempts that no budget covers are booked with it, so that a budget declared later
        sees them; the others are booked by `settle`, and only by it.
        """
        if self._desk.closed:
            self._desk.drop(1)
            return
        if not self._keep_text or decision.features.sensitivity == "private":
            exchange = None
        self._desk.writer().add((decision, exchange))
        if self._till is not self._desk:
            self._tell(decision)

    def feedback(self, decision_id: str, score: float, at: float) -> None:
        """Takes a score (0 to 1) for a decision's answer, given at a Unix time. The newest counts.

        Raises:
            ValueError: if the score or the time is not finite.
        """
        if not (math.isfinite(score) and math.isfinite(at)):
            raise ValueError(f"score = {score}, at = {at}: a score and its time are finite numbers")
        if self._desk.closed:
            self._desk.drop(1)
            return
        self._desk.writer().add(Feedback(clean(decision_id), float(score), float(at)))

    def guards(self, model: str, task: str | None) -> bool:
        """Whether any budget covers requests of this task to this model."""
        return bool(self.standings.covering(model, task))

    def reserve(
        self, key: str, model: str, task: str | None, usd: Decimal, done: Callable[[Refusal | None], None]
    ) -> None:
        """Sets money aside for one attempt, in every budget that covers it, or in none.

        Args:
            key: Unique per attempt (`<decision id>/<number>`).
            model: Whom it is for.
            task: The request's task.
            usd: The most that the attempt is expected to cost.
            done: Called with None once that is committed, or with the refusal: on the writer's thread, or
                at once on this one if nothing needs to be asked (no budget covers it, or it costs nothing).

        Raises:
            ValueError: if the amount cannot be booked (negative, no number).
        """
        reserve = self._reservation(key, model, task, usd)
        if reserve is None:
            done(None)
            return

        def answered(refusal: Refusal | None) -> None:
            if refusal is not None:
                self._openings.refused(key)
            done(refusal)

        reserve.done = answered
        self._till.submit(reserve)

    def settle(self, key: str, usd: Decimal | None, done: Callable[[bool], None] | None = None) -> None:
        """Puts what an attempt really cost in the place of what was set aside for it.

        Args:
            key: As reserved. A key that was never reserved, or is settled already, is passed over.
            usd: The cost, which may be more than was reserved; None: nothing was spent.
            done: Called with True once that is committed: from then on no crash loses it. With False if it
                failed; the ledger then keeps the reservation and tries again until it is closed.

        Raises:
            ValueError: if the amount cannot be booked (negative, no number).
        """
        settle = self._openings.settle(key, usd)
        if settle is None:
            if done is not None:
                done(True)
            return
        if done is not None:
            settle.done = done
        self._till.submit(settle)

    async def areserve(
        self, key: str, model: str, task: str | None, usd: Decimal, *, patience: float = 0.0
    ) -> Refusal | None:
        """`reserve`, awaited. If the waiting task is cancelled, nothing stays reserved.

        With patience, what does not fit only because of what is set aside for others waits for so many
        seconds, in order of arrival, until enough has come back: of this process's calls in the transaction
        that settles them, of other processes' a moment later. It is refused as soon as that cannot happen
        any more in the period that runs.
        """
        reserve = self._reservation(key, model, task, usd)
        if reserve is None:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Refusal | None] = loop.create_future()
        reserve.done, reserve.waits = future, patience > 0
        self._till.submit(reserve)
        timed = 0 < patience < math.inf
        timer = loop.call_later(patience, self._withdraw, key) if timed else None
        try:
            refusal = await future
        except asyncio.CancelledError:
            self.settle(key, None)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if refusal is not None:
            self._openings.refused(key)
        return refusal

    async def asettle(self, key: str, usd: Decimal | None) -> bool:
        """`settle`, awaited. If the waiting task is cancelled, it is settled all the same."""
        settle = self._openings.settle(key, usd)
        if settle is None:
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        settle.done = future
        self._till.submit(settle)
        return await future

    def left(self, budget: Budget) -> Decimal:
        """USD that a budget has left in the period that runs, without I/O.

        As of the last commit of this process, and at most about a second old as to other processes; only
        `reserve` knows for certain.

        Raises:
            ValueError: if the ledger was not built with this budget.
        """
        return to_usd(self.standings.of(self._budgets.index(budget)).left)

    def room(self, model: str, task: str | None) -> Decimal | None:
        """USD left, as by `left`, in the budget that has least among those that cover such a request.

        None if no budget covers it.
        """
        lefts = [self.standings.of(place).left for place in self.standings.covering(model, task)]
        return to_usd(min(lefts)) if lefts else None

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until all that was queued is written (or dropped). Returns whether that was in time (s)."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        done = [desk.flush(_left(end)) for desk in self._desks]
        return all(done)

    def close(self, timeout: float = 2.0) -> bool:
        """Writes all that is queued, frees what is still reserved and closes the file. May be called twice.

        Returns whether that was done in time (s). What comes afterwards is refused, or dropped and counted.
        """
        end = time.monotonic() + timeout
        for desk in self._desks:
            let_go(desk)
        writers = [desk.known_writer() for desk in self._desks]
        ended = [writer.join(_left(end) or 0.0) for writer in writers if writer is not None]
        return all(ended)

    def _tell(self, decision: Decision) -> None:
        """Books on the server what no budget of this process covers; those of others may."""
        from router.ledger.operations import Settle, ignore

        task = clean(decision.features.task or "")
        for attempt in decision.attempts:
            usd = attempt_money(attempt)
            if usd is not None and not self.guards(attempt.model, task):
                self._till.submit(Settle("", clean(attempt.model), task, to_units(usd), ignore))

    def _withdraw(self, key: str) -> None:
        from router.ledger.operations import Withdraw

        self._till.submit(Withdraw(key))

    def _reservation(self, key: str, model: str, task: str | None, usd: Decimal) -> Reserve | None:
        """What to ask the writer for; None if there is nothing to ask."""
        if not self.guards(model, task):
            to_units(usd)  # refuses what cannot be booked, whatever it is for
            return None
        return self._openings.reserve(key, model, task, usd)


def _left(end: float) -> float | None:
    """Seconds until then; None if there is no end."""
    return None if end == math.inf else max(0.0, end - time.monotonic())
