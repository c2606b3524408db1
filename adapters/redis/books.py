"""The books of budgets and limits as one process keeps them on a Redis server.

Used by one writer's thread (`router.ledger.writer`), which may wait for the server; event loops never do. An
answer that does not come leaves open whether the script ran. So every step has a number, and the next thing
that is sent is the same step again, which the server passes over if it ran: nothing is booked twice, nothing
is lost, and a step that a slow network delivers late does nothing.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar, cast

from adapters.redis.link import Link, UnreachableError
from adapters.redis.outage import Outage
from adapters.redis.owing import Owing
from adapters.redis.running import Running, worth_asking_in
from adapters.redis.wire import (
    Money,
    Reply,
    Wire,
    encoded,
    give_wire,
    hold_wire,
    nano,
    parsed,
    reserve_wire,
    settle_wire,
    take_wire,
)
from router.ledger.money import Account, Refusal, Standing, to_usd, window
from router.ledger.operations import Answer, Change, Give, Reserve, Settle, Take, Visit

if TYPE_CHECKING:
    from pydantic import SecretStr

    from router.allowances import Budget
    from router.ledger.books import Snapshot
    from router.ledger.entries import Row

__all__ = ["LEASE", "RedisBooks", "create"]

_log = logging.getLogger("router.ledger")
_T = TypeVar("_T")

#: Seconds without a word after which an owner counts as dead, and what it held is free. A living one is heard
#: of every second.
LEASE = 15.0
#: Operations in one step. Redis does nothing else meanwhile, some 2 ms for so many.
STEP = 64


def create(url: SecretStr, budgets: Sequence[Budget], wall: Callable[[], float]) -> RedisBooks:
    """Makes the books of one process. Connects to nothing yet.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py reads it; `prefix=` among its options is
            what the keys begin with (`router`), `cluster=true` is for a Redis Cluster of several nodes.
        budgets: All that must be kept.
        wall: The Unix time in seconds, of this machine.

    Raises:
        ConfigurationError: if the URL is none.
    """
    return RedisBooks(Link(url), budgets, wall=wall, lease=LEASE)


class RedisBooks:
    """A `router.ledger.keeper.Keeper` on a Redis server.

    Attributes:
        snapshot: What the budgets had left after the last step.
        crowded: Never: owners that died are looked for in every step.
    """

    crowded = False

    def __init__(
        self, link: Link, budgets: Sequence[Budget], *, wall: Callable[[], float], lease: float = LEASE
    ) -> None:
        """Does nothing yet. `lease`: seconds of silence after which this owner counts as dead."""
        self.snapshot: Snapshot = ()
        self._link = link
        self._outage = Outage(link.alive, link.where)
        self._wall = wall
        self._lease = lease
        self._owner = uuid.uuid4().hex
        self._number = 0
        self._accounts = [Account.of(budget) for budget in budgets]
        self._owing = Owing()
        self._hour: int | None = None  # by the server
        self._held: dict[str, Money] = {}
        self._running = Running()
        self._sent = False  # whether what is being done was perhaps sent

    @property
    def owes(self) -> bool:
        """Whether money was spent that could not be booked yet."""
        return bool(self._owing)

    def group(self, operations: Sequence[Change]) -> list[Answer]:
        """As `Keeper.group`, in steps of at most 64."""
        answers: list[Answer] = []
        for start in range(0, len(operations), STEP):
            part = operations[start : start + STEP]
            self._sent = False
            done = self._try(functools.partial(self._do, part))
            answers += done if done is not None else [self._fail(operation) for operation in part]
        return answers

    def rows(self, batch: Sequence[Row]) -> int:
        """Decisions are not kept here."""
        return len(batch)

    def look(self) -> None:
        """As `Keeper.look`. While the server does not answer, another thread tries whether it does again."""
        self._outage.probe()
        self._try(self._see)

    def upkeep(self) -> None:
        """Nothing: every step says that this owner lives, and frees what dead ones held."""

    def visit(self, visit: Visit) -> None:
        """There is no file here to be used: says when what was queued before is done."""
        visit.future.set_result(None)

    def close(self) -> None:
        """As `Keeper.close`."""
        holds = bool(self._held) or bool(self._running)
        self._held.clear()
        self._running.clear()
        end = functools.partial(self._send, [["sign_out"]])
        if self._number and self._try(end, once_more=self.owes) is None and holds:
            _log.warning("what this process held at %s is free in %g s", self._link.where, self._lease)
        if self._owing.usd:
            _log.error("the budgets are closed with %.9f USD spent and not booked", self._owing.usd)
        self._link.close()

    # --- steps ---

    def _try(self, work: Callable[[], _T], *, once_more: bool = False) -> _T | None:
        """Runs some steps, unless the server is known to be away. None: perhaps they did not run."""
        if self._outage.off and not once_more:
            return None
        try:
            self._catch_up()
            result = work()
        except Exception as error:  # noqa: BLE001 - everybody who asks gets an answer, and it is no
            self._link.close()
            self._outage.begins(error)
            if not isinstance(error, UnreachableError):
                _log.error("the books at %s made a mistake: %s", self._link.where, type(error).__name__)
            return None
        self._outage.ends()
        return result

    def _catch_up(self) -> None:
        """Does first what perhaps was not done, and what is owed."""
        if self._owing.unsure is not None:
            self._deliver(*self._owing.unsure)
            self._owing.arrived()
        while self._owing:
            self._send(self._owing.next(STEP))

    def _send(self, wires: Sequence[Wire]) -> Reply:
        self._number += 1
        self._owing.sent(self._number, wires)
        reply = self._deliver(self._number, wires)
        if reply is None or len(reply.answers) != len(wires):
            raise self._link.nonsense()
        self._owing.arrived()
        return reply

    def _deliver(self, number: int, wires: Sequence[Wire]) -> Reply | None:
        asked = encoded(
            owner=self._owner,
            number=number,
            lease=self._lease,
            accounts=self._accounts,
            running=self._running.counts,
            wires=wires,
        )
        raw = self._link.step(asked)
        try:
            reply = parsed(raw)
        except ValueError:
            raise self._link.nonsense() from None
        if reply is None:
            return None
        if len(reply.sums) != len(self._accounts):
            raise self._link.nonsense()
        self._hour = reply.hour
        for account, (settled, reserved) in zip(self._accounts, reply.sums, strict=True):
            account.start, account.end = window(account.budget.period, reply.hour)
            account.settled, account.reserved = settled, reserved
        self.snapshot = tuple(Standing(one.start, one.end, one.left, one.free) for one in self._accounts)
        return reply

    def _see(self) -> bool:
        known = self._send([]).held
        if known != len(self._held):
            _log.warning(
                "the Redis server at %s knew %d of this process's %d reservations: it was restored, or took "
                "the process for dead; now it knows them all",
                self._link.where,
                known,
                len(self._held),
            )
            self._send([["only", list(self._held)]])
            wires = [hold_wire(key, held) for key, held in self._held.items()]
            for start in range(0, len(wires), STEP):
                self._send(wires[start : start + STEP])
        return True

    def _do(self, operations: Sequence[Change]) -> list[Answer]:
        wires = [self._wire(operation) for operation in operations]
        self._sent = True
        answers = self._send(wires).answers
        return [
            self._take_in(operation, answer) for operation, answer in zip(operations, answers, strict=True)
        ]

    def _wire(self, operation: Change) -> Wire:
        match operation:
            case Reserve(key, model, task):
                return reserve_wire(operation, self._covering(model, task))
            case Settle(key):
                held = self._held.get(key)
                return settle_wire(operation, held.hour if held is not None else None)
            case Take():
                return take_wire(operation)
            case Give():
                return give_wire(operation, self._wall() - operation.at)
            case _:
                raise TypeError(f"{type(operation).__name__} is no business of the books")

    # --- what the server answered ---

    def _take_in(self, operation: Change, answer: Sequence[object]) -> Answer:
        match operation:
            case Reserve():
                return self._reserved(operation, answer)
            case Take():
                return self._taken(operation, answer)
            case Settle(key):
                self._held.pop(key, None)
            case Give(model):
                self._running.change(model, -operation.over)
        return True

    def _reserved(self, ask: Reserve, answer: Sequence[object]) -> Refusal | None:
        """The refusal; None if it is reserved."""
        if answer[0] == 1 or (answer[0] == -1 and ask.key not in self._held):  # or it was granted unheard
            self._held[ask.key] = Money(self._hour, ask.model, ask.task, nano(ask.units))
            return None
        if answer[0] == -1:
            return _unchecked(ask, f"{ask.key!r} has a reservation already")
        account = self._accounts[int(str(answer[1]))]
        return account.refusal(ask.units)

    def _taken(self, take: Take, answer: Sequence[object]) -> Answer:
        granted = int(str(answer[0]))
        self._running.began(take.ask, granted)
        if granted == len(take.ask.tokens):
            return granted, 0.0
        waits = [int(str(wait)) for wait in cast("list[object]", answer[1])]
        return granted, worth_asking_in(waits, take.ask.service)

    def _fail(self, operation: Change) -> Answer:
        """The answer where nothing is certain."""
        match operation:
            case Reserve(key, model, task):
                if self._sent:
                    self._owing.undo(key, model, task)
                return _unchecked(operation, str(self._outage.why))
            case Settle(key):
                held = self._held.pop(key, None)
                if not self._sent:
                    self._owing.owe(operation, held.hour if held is not None else None)
            case Take(ask):
                self._running.began(ask, len(ask.tokens))
                return len(ask.tokens), 0.0
            case Give(model):
                self._running.change(model, -operation.over)
        return False

    def _covering(self, model: str, task: str) -> tuple[int, ...]:
        return tuple(place for place, one in enumerate(self._accounts) if one.covers(model, task))


def _unchecked(ask: Reserve, why: str) -> Refusal:
    return Refusal(None, Decimal(0), to_usd(ask.units), f"shared: {why}")
