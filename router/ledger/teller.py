"""Asks the keeper of the books for what callers want, and lets those wait for whom money may come free.

Stands between a writer's two queues and whoever keeps the books (`router.ledger.keeper`), on the writer's
thread. Whether anything was reserved is the keeper's word alone; who is to ask next is decided here.

What a process's own calls give back goes to those who wait in it without delay, and other processes only look
some twenty times a second: they would never get any of it. So a process whose waiting requests were given
money for a while leaves what comes free to others for as long, which is long enough for each of them to look.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from router.ledger.line import Line
from router.ledger.money import Refusal
from router.ledger.operations import Answer, Change, Reserve, Settle, Withdraw

if TYPE_CHECKING:
    from router.allowances import Budget
    from router.ledger.keeper import Keeper

__all__ = ["Answered", "Teller"]

Answered: TypeAlias = list[tuple[Change, Answer]]
"""Operations with their answers; those of who waited are among them when their time has come."""


#: Seconds for which a process takes what comes free, and then leaves it to others, about: so that processes
#: do not take turns in step, each time between half of it and half more.
OWN, OTHERS = 0.1, 0.1


class Teller:
    """The line of those who wait for money, before the books of one process."""

    def __init__(
        self,
        keeper: Keeper,
        budgets: Sequence[Budget],
        *,
        shared: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nobody waits yet.

        Args:
            keeper: Who keeps the books.
            budgets: Those that it keeps, in its order.
            shared: Whether other processes may wait for the same money.
            clock: Seconds.
        """
        self._keeper = keeper
        self._line = Line(budgets)
        self._shared, self._clock = shared, clock
        self._own_until = self._others_until = -math.inf

    @property
    def busy(self) -> bool:
        """Whether somebody waits."""
        return bool(self._line)

    def group(self, operations: Sequence[Change]) -> Answered:
        """Does what is asked. What comes free of it goes to those who wait."""
        answered: Answered = []
        now, passing = self._sort(operations, answered)
        if now:
            self._ask(now, answered)
        elif self._line:  # it may be another hour than when the keeper was asked last
            self._keeper.look()
        self._advance(answered)
        for key in passing:
            self._withdraw(key, answered)
        return answered

    def _sort(self, operations: Sequence[Change], answered: Answered) -> tuple[list[Change], list[str]]:
        """What to ask the keeper at once, and the keys of those that are refused unless they get a turn now.

        Where some wait, new ones line up behind them.
        """
        now: list[Change] = []
        asking: dict[str, Reserve] = {}
        passing: list[str] = []  # who does not wait, and may not overtake those who do
        for operation in operations:
            match operation:
                case Reserve(key) if self._line and key not in self._line:
                    self._line.join(operation)
                    if not operation.waits:
                        passing.append(key)
                case Reserve(key):
                    asking[key] = operation
                    now.append(operation)
                case Settle(key) | Withdraw(key):
                    self._withdraw(key, answered)
                    if key in asking:  # it came so late that it must not begin to wait
                        asking[key].waits = False
                    if isinstance(operation, Settle):
                        now.append(operation)
                    else:
                        answered.append((operation, True))
                case _:
                    now.append(operation)
        return now, passing

    def look(self) -> Answered:
        """Sees what others did. What came free of it goes to those who wait."""
        self._keeper.look()
        answered: Answered = []
        self._advance(answered)
        return answered

    def dismiss(self) -> list[Reserve]:
        """Empties the line, at the end. Returns who was in it."""
        return self._line.everybody()

    def _ask(self, operations: Sequence[Change], answered: Answered) -> bool:
        """Asks the keeper. Returns whether somebody was refused: then it is of no use to ask on."""
        refused = False
        for operation, answer in zip(operations, self._keeper.group(operations), strict=True):
            if isinstance(operation, Reserve):
                final = not isinstance(answer, Refusal) or answer.final
                refused = refused or answer is not None
                if not final and operation.key in self._line:  # others were faster
                    continue
                if not final and operation.waits:
                    self._line.join(operation)
                    continue
                if self._line.leave(operation.key) is not None and answer is None:
                    self._was_served()
            answered.append((operation, answer))
        return refused

    def _advance(self, answered: Answered) -> None:
        """Asks for those who wait, as far as there is money, and refuses whom there will be none for."""
        while self._line:
            self._line.see(self._keeper.snapshot)
            answered += [(ask, self._line.refusal(ask)) for ask in self._line.hopeless()]
            ready = [] if self._others_turn() else self._line.ready()
            if not ready or self._ask(ready, answered):
                return

    def _others_turn(self) -> bool:
        return self._shared and self._own_until <= self._clock() < self._others_until

    def _was_served(self) -> None:
        """Somebody who waited has got money: after a while it is the others' turn."""
        now = self._clock()
        if now >= self._others_until:
            self._own_until = now + OWN * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
            self._others_until = self._own_until + OTHERS * random.uniform(0.5, 1.5)  # noqa: S311 - no secret

    def _withdraw(self, key: str, answered: Answered) -> None:
        """Refuses one that waits, for what there is now."""
        ask = self._line.leave(key)
        if ask is not None:
            answered.append((ask, self._line.refusal(ask)))
