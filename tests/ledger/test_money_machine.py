"""Whatever several processes do with their budgets on one file, in whatever order: against a model of it.

The processes are real writers' clerks with connections of their own, in this process; their clock is set, and
who has crashed is told to the others instead of looked up.
"""

from __future__ import annotations

import functools
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.config import Budget
from router.ledger.clerk import Clerk
from router.ledger.money import SCALE, Refusal, hour_of, window
from router.ledger.operations import Answer, Reserve, Settle, Withdraw, ignore
from router.ledger.owners import Owner, release
from router.ledger.schema import open_file
from router.ledger.teller import Answered, Teller
from tests.ledger.making import Wall

BUDGETS = (
    Budget(usd=1.5, period="total"),
    Budget(usd=1.0, period="hour"),
    Budget(usd=0.8, period="hour", model="a"),
    Budget(usd=0.6, period="day", task="t"),
)
#: The least amount that is asked for.
STEP = SCALE // 10
PROCESSES = 3


class Money(NamedTuple):
    """What was reserved or spent, in the hour in which it was reserved."""

    hour: int
    model: str
    task: str
    units: int


class Process:
    def __init__(self, path: Path, wall: Wall) -> None:
        connect = functools.partial(open_file, path)
        self.clerk = Clerk(connect, BUDGETS, shared=True, wall=wall)
        self.teller = Teller(self.clerk, BUDGETS)
        self.held: dict[str, Money] = {}
        self.waiting: dict[str, Reserve] = {}


class Budgets(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path, self.wall = self.folder / "l.db", Wall()
        self.dead: set[str] = set()
        dead = self.dead
        patch = mock.patch.object(Owner, "dead", lambda owner, *_, **__: owner.name in dead)
        patch.start()
        self.undo = patch.stop
        self.processes = [Process(self.path, self.wall) for _ in range(PROCESSES)]
        self.spent: list[Money] = []
        self.number = 0
        self.processes[0].clerk.look()  # the file is there

    # --- the model ---

    def sums(self, budget: Budget) -> tuple[int, int]:
        """What is spent and what is reserved of a budget in the period that runs."""
        start, end = window(budget.period, hour_of(self.wall.at))
        held = [money for process in self.processes for money in process.held.values()]
        counted = [
            sum(
                money.units
                for money in sums
                if start <= money.hour < end
                and budget.model in (None, money.model)
                and budget.task in (None, money.task)
            )
            for sums in (self.spent, held)
        ]
        return counted[0], counted[1]

    def room(self, ask: Reserve, *, if_all_came_back: bool = False) -> int:
        rooms: list[int] = []
        for budget in BUDGETS:
            if budget.model in (None, ask.model) and budget.task in (None, ask.task):
                spent, reserved = self.sums(budget)
                limit = int(budget.usd * 10 + 0.5) * STEP
                rooms.append(limit - spent - (0 if if_all_came_back else reserved))
        return min(rooms)

    def take(self, process: Process, answered: Answered) -> None:
        for operation, answer in answered:
            if isinstance(operation, Reserve):
                self.take_one(process, operation, answer)

    def take_one(self, process: Process, ask: Reserve, answer: Answer) -> None:
        process.waiting.pop(ask.key, None)
        if answer is None:
            assert ask.units <= self.room(ask), "granted beyond a budget"
            hour = hour_of(self.wall.at)
            process.held[ask.key] = Money(hour, ask.model, ask.task, ask.units)
            return
        assert isinstance(answer, Refusal)
        assert answer.budget is not None
        if answer.final:
            assert ask.units > self.room(ask, if_all_came_back=True), "refused for good, though it may fit"

    # --- what happens ---

    @rule(
        which=st.integers(0, PROCESSES - 1),
        model=st.sampled_from("ab"),
        task=st.sampled_from(["", "t"]),
        steps=st.integers(1, 9),
        waits=st.booleans(),
    )
    def reserves(self, which: int, model: str, task: str, steps: int, *, waits: bool) -> None:
        process, key = self.processes[which], f"k{self.number}"
        self.number += 1
        ask = Reserve(key, model, task, steps * STEP, ignore, waits=waits)
        nobody_waits, fits = not process.waiting, ask.units <= self.room(ask)
        if waits:
            process.waiting[key] = ask
        self.take(process, process.teller.group([ask]))
        if nobody_waits:
            assert (key in process.held) == fits, "granted when, and only when, there is room"

    @precondition(lambda self: any(process.held for process in self.processes))
    @rule(which=st.integers(0, 99), steps=st.integers(0, 11), spent=st.booleans())
    def settles(self, which: int, steps: int, *, spent: bool) -> None:
        held = [(process, key) for process in self.processes for key in process.held]
        process, key = held[which % len(held)]
        money = process.held.pop(key)
        units = min(steps * STEP, money.units + STEP) if spent else None  # it may cost a little more
        if units:
            self.spent.append(money._replace(units=units))
        self.take(process, process.teller.group([Settle(key, money.model, money.task, units, ignore)]))

    @precondition(lambda self: any(process.waiting for process in self.processes))
    @rule(which=st.integers(0, 99), cancelled=st.booleans())
    def waits_no_longer(self, which: int, *, cancelled: bool) -> None:
        waiting = [(process, ask) for process in self.processes for ask in process.waiting.values()]
        process, ask = waiting[which % len(waiting)]
        leaves = Settle(ask.key, ask.model, ask.task, None, ignore) if cancelled else Withdraw(ask.key)
        self.take(process, process.teller.group([leaves]))
        assert ask.key not in process.waiting

    @rule(which=st.integers(0, PROCESSES - 1))
    def looks(self, which: int) -> None:
        process = self.processes[which]
        self.take(process, process.teller.look())
        for account, budget in zip(process.clerk.snapshot, BUDGETS, strict=True):
            spent, reserved = self.sums(budget)
            limit = int(budget.usd * 10 + 0.5) * STEP
            assert account.left == max(0, limit - spent - reserved)
            assert account.free == max(0, limit - spent)
        first = next(iter(process.waiting.values()), None)
        if first is not None:
            assert self.room(first) < first.units <= self.room(first, if_all_came_back=True), (
                "whoever is first waits only for what may come back"
            )

    @rule(which=st.integers(0, PROCESSES - 1))
    def crashes(self, which: int) -> None:
        gone, self.processes[which] = self.processes[which], Process(self.path, self.wall)
        self.dead.add(gone.clerk._name)
        if gone.clerk._connection is not None:
            gone.clerk._connection.close()
        self.processes[which - 1].clerk.upkeep()

    @rule(hours=st.sampled_from([1, 24]))
    def time_passes(self, hours: int) -> None:
        self.wall.at += hours * 3600

    @rule(which=st.integers(0, PROCESSES - 1))
    def is_taken_for_dead_and_goes_on(self, which: int) -> None:
        """What was freed is set aside again as soon as it does anything, before anybody else does."""
        process = self.processes[which]
        other = sqlite3.connect(self.path)
        with other:
            release(other, process.clerk._name)
        other.close()
        self.take(process, process.teller.group([Withdraw("nobody")]))
        self.take(process, process.teller.group([Settle("none", "a", "", None, ignore)]))

    @invariant()
    def nobody_waits_who_was_answered(self) -> None:
        for process in self.processes:
            assert process.teller.busy == bool(process.waiting)

    def teardown(self) -> None:
        try:
            self.ends_well()
        finally:
            self.undo()
            shutil.rmtree(self.folder)

    def ends_well(self) -> None:
        for process in self.processes:
            for key in list(process.waiting):
                self.take(process, process.teller.group([Withdraw(key)]))
            for key, money in list(process.held.items()):
                process.teller.group([Settle(key, money.model, money.task, None, ignore)])
            process.held.clear()
        for which in range(PROCESSES):
            self.looks(which)
            self.processes[which].clerk.close()
        file = sqlite3.connect(self.path)
        assert file.execute("SELECT count(*) FROM money WHERE owner <> '' AND usd <> '0'").fetchone() == (0,)
        file.close()


Budgets.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestBudgets = Budgets.TestCase
