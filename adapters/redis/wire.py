"""What is sent to the script and what it answers, as plain data. No I/O here.

Money travels as whole nanodollars, in text: the ledger's attodollars would not fit into Redis' integers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from router.ledger.money import Account, clean

if TYPE_CHECKING:
    from router.ledger.operations import Give, Reserve, Settle, Take
    from router.limits.store import Ask, Limits

__all__ = [
    "MOST_NANO",
    "Money",
    "Reply",
    "Wire",
    "all_limits",
    "encoded",
    "give_wire",
    "hold_wire",
    "nano",
    "parsed",
    "reserve_wire",
    "settle_wire",
    "take_wire",
]

Wire: TypeAlias = "list[object]"
"""One operation: the name of a function of the script, and its arguments."""

#: Attodollars in a nanodollar.
ATTO = 10**9
#: A million USD. No call costs that much, and thousands of such sums must fit into Redis' integers.
MOST_NANO = 10**15


class Money(NamedTuple):
    """An amount as it is reserved: in the hour it was made in (None: unknown), in nanodollars."""

    hour: int | None
    model: str
    task: str
    amount: str


class Reply(NamedTuple):
    """What the script answered.

    Attributes:
        hour: The UTC hour since 1970, by the server.
        held: Reservations of this owner that the server knows.
        answers: One per operation.
        sums: Per budget, attodollars settled and reserved.
    """

    hour: int
    held: int
    answers: list[list[object]]
    sums: list[tuple[int, int]]


def nano(units: int) -> str:
    """Attodollars as nanodollars; a part of one counts as one."""
    return str(min(-(-units // ATTO), MOST_NANO))


def encoded(
    *,
    owner: str,
    number: int,
    lease: float,
    accounts: Sequence[Account],
    running: Mapping[str, int],
    wires: Sequence[Wire],
) -> str:
    """A step as the script reads it."""
    return json.dumps(
        {
            "owner": owner,
            "seq": number,
            "lease": lease,
            "accounts": [
                [
                    one.budget.period,
                    clean(one.budget.model or ""),
                    clean(one.budget.task or ""),
                    str(one.limit // ATTO),
                ]
                for one in accounts
            ],
            "running": running,
            "ops": wires,
        },
        separators=(",", ":"),
    )


def parsed(raw: Sequence[object]) -> Reply | None:
    """The script's answer; None if it had run before.

    Raises:
        ValueError: if it is nothing that the script answers.
    """
    try:
        if raw[0] == "seen":
            return None
        _, hour, held, answers, sums = raw
        booked = [
            (int(settled) * ATTO, int(reserved) * ATTO) for settled, reserved in cast("list[list[str]]", sums)
        ]
        return Reply(
            int(cast("int", hour)), int(cast("int", held)), cast("list[list[object]]", answers), booked
        )
    except (TypeError, IndexError, KeyError) as error:
        raise ValueError("it answers nonsense") from error


def reserve_wire(ask: Reserve, covering: Sequence[int]) -> Wire:
    """Sets an amount aside."""
    return ["reserve", ask.key, nano(ask.units), ask.model, ask.task, list(covering), ask.waits]


def settle_wire(settle: Settle, hour: int | None) -> Wire:
    """Puts what was spent in the place of a reservation; `hour`: of the reservation, if that is known."""
    units = nano(settle.units) if settle.units else False
    return ["settle", settle.key, units, settle.model, settle.task, False if hour is None else hour]


def hold_wire(key: str, held: Money) -> Wire:
    """Sets aside again what the server has forgotten."""
    return ["hold", key, held.amount, held.model, held.task, False if held.hour is None else held.hour]


def take_wire(take: Take) -> Wire:
    """Takes turns."""
    limits = [
        [clean(model), *(False if one is None else one for one in allowed)]
        for model, allowed in all_limits(take.ask)
    ]
    return ["take", limits, list(take.ask.tokens)]


def all_limits(ask: Ask) -> tuple[tuple[str, Limits], ...]:
    """The limits that hold for those who ask, by their names."""
    return ((ask.model, ask.limits), *ask.also)


def give_wire(give: Give, age: float) -> Wire:
    """Gives turns back; `age`: seconds since they were taken."""
    return ["give", clean(give.model), give.over, give.requests, give.tokens, max(age, 0.0)]
