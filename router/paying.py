"""Money for an attempt: set aside before it is sent, waited for where it may come back, settled afterwards.

What budgets lack because it is set aside for requests under way mostly comes back: answers are shorter than
they may be. So a request waits for it, in order of arrival (`router.ledger.line`), and is refused only when
it is spent, or the time is over. Without a deadline it waits a little longer than an attempt may take: by
then, all that was under way when it came is over.
"""

from __future__ import annotations

import math
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING

from router.booking import feared_cost, reserved_cost
from router.errors import ModelError
from router.failures import may_be_billed

if TYPE_CHECKING:
    from router.core import Core
    from router.ledger import Refusal
    from router.live import LiveAttempt
    from router.routing import Routing

__all__ = [
    "BudgetRefusedError",
    "affords_now",
    "patience_for_money",
    "pay",
    "refuse",
    "settle",
    "settle_later",
    "to_set_aside",
]

#: How many times as long as an answer is predicted to take must be left of a deadline when a wait is over ...
HEADROOM = 1.25
#: ... but no more than this share of what was left at first: a prediction may be far too long.
MOST_KEPT = 0.5
#: Set aside where the price is unknown: so that nothing is sent on a budget that is spent.
LEAST = Decimal("1e-18")
#: Other candidates that a waiting request looks at: for one that is better by now, or one that must still be
#: in time if the wait is in vain.
MOST_COMPARED = 8


class BudgetRefusedError(ModelError):
    """A budget has no room for an attempt. It is told as a reason, and never raised.

    Attributes:
        refusal: As the ledger told it.
    """

    def __init__(self, refusal: Refusal, *, model: str) -> None:
        super().__init__(str(refusal), model=model)
        self.refusal = refusal


def to_set_aside(routing: Routing, place: int) -> Decimal:
    """USD to set aside for an attempt on a candidate."""
    profile, features = routing.fleet.profiles[place], routing.features
    usd = reserved_cost(
        profile, routing.estimate(place), features.max_output_tokens, choices=features.choices
    )
    return LEAST if math.isnan(routing.estimate(place).cost) and not usd else usd


def affords_now(core: Core, routing: Routing, place: int) -> bool:
    """Whether the budgets have room for a candidate at this moment, as far as is known here."""
    if not core.config.budget:
        return True
    room = core.ledger.room(routing.fleet.names[place], routing.features.task)
    return room is None or to_set_aside(routing, place) <= room


def patience_for_money(core: Core, routing: Routing, place: int, now: float) -> float:
    """Seconds that a request may wait for money: whoever is asked then can still be in time."""
    left = routing.deadline_at - now
    if left == math.inf:
        return HEADROOM * core.config.recovery.attempt_timeout
    service = routing.fleet.learned.service
    needed = min(routing.estimate(place).work, service[place])
    fresh = (other for other in routing.order if other not in routing.tried)
    for other in islice(fresh, MOST_COMPARED):
        if affords_now(core, routing, other):
            needed = max(needed, service[other])
            break
    return max(left - min(HEADROOM * needed, MOST_KEPT * left), 0.0)


async def pay(core: Core, routing: Routing, attempt: LiveAttempt, *, patience: float = 0.0) -> Refusal | None:
    """Sets the money for an attempt aside, waiting for so many seconds at most. Returns the refusal, if any.

    If the waiting task is cancelled, nothing stays set aside.
    """
    usd = to_set_aside(routing, attempt.place)
    name = routing.fleet.names[attempt.place]
    refusal = await core.ledger.areserve(
        routing.key(attempt.number), name, routing.features.task, usd, patience=patience
    )
    attempt.reserved = None if refusal is not None else usd
    return refusal


def refuse(routing: Routing, attempt: LiveAttempt, refusal: Refusal) -> None:
    """Notes why an attempt was not made."""
    attempt.error = BudgetRefusedError(refusal, model=routing.fleet.names[attempt.place])


async def settle(core: Core, routing: Routing, attempt: LiveAttempt) -> None:
    """Replaces the money set aside for an attempt by what it really spent; committed when this returns."""
    usd = _spent(routing, attempt)
    if usd is not None:
        await core.ledger.asettle(routing.key(attempt.number), usd)


def settle_later(core: Core, routing: Routing, attempt: LiveAttempt) -> None:
    """As `settle`, without waiting until it is committed."""
    usd = _spent(routing, attempt)
    if usd is not None:
        core.ledger.settle(routing.key(attempt.number), usd)


def _spent(routing: Routing, attempt: LiveAttempt) -> Decimal | None:
    """What an attempt spent, or may have spent; None if no money is set aside for it. Told once.

    Of an answer that was called off or lost, nobody learns what its host bills. The decision tells what is
    likely; budgets, which must hold, are charged what is to be feared.
    """
    reserved, attempt.reserved = attempt.reserved, None
    if reserved is None or attempt.cost is None:
        return reserved
    if attempt.begun_at is None or attempt.ended_at is None or not _is_in_doubt(attempt):
        return attempt.cost
    profile, found = routing.fleet.profiles[attempt.place], routing.estimate(attempt.place)
    worked, choices = attempt.ended_at - attempt.begun_at, routing.features.choices
    return max(attempt.cost, feared_cost(profile, found, reserved, worked, choices=choices))


def _is_in_doubt(attempt: LiveAttempt) -> bool:
    """Whether neither the usage nor any text was seen of an answer that may have been written."""
    if attempt.usage_is_reported or attempt.characters:
        return False
    if attempt.outcome == "failed":
        return attempt.error is not None and may_be_billed(attempt.error)
    return attempt.outcome == "cancelled"
