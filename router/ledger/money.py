"""Money that is exact, and the periods that budgets are counted in. No I/O here.

Amounts are whole numbers of attodollars (10⁻¹⁸ USD): sums are exact whatever decimal context the calling
thread has set, and adding Python integers is cheaper than adding decimals. Files hold them as decimal text,
because SQLite's own integers end at 9.2 USD of that unit and its sums are floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime
from decimal import ROUND_CEILING, Context, Decimal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from router.allowances import Budget

__all__ = [
    "SCALE",
    "Account",
    "Refusal",
    "Standing",
    "clean",
    "hour_of",
    "to_text",
    "to_units",
    "to_usd",
    "window",
]

PLACES = 18
SCALE = 10**PLACES
#: No call costs that much; a larger amount is a mistake.
MOST_USD = 10**12
#: The caller's own decimal context must not decide how we count.
_EXACT = Context(prec=80, rounding=ROUND_CEILING, traps=[])

#: The last hour of the year 9999, where the calendar ends; a wall clock beyond it is read as that hour.
LAST_HOUR = 70_389_527


def to_units(usd: Decimal) -> int:
    """USD as attodollars; what is smaller than one counts as one.

    Raises:
        ValueError: if it is negative, no number, or more than 10¹² USD.
    """
    if not usd.is_finite() or usd < 0 or usd.adjusted() >= len(str(MOST_USD)):
        raise ValueError(f"{usd} is no amount of money that can be booked (0 to {MOST_USD} USD)")
    return int(_EXACT.scaleb(usd, PLACES).to_integral_value(rounding=ROUND_CEILING, context=_EXACT))


def to_text(units: int) -> str:
    """Attodollars as decimal text in USD, without an exponent: `0.0015`."""
    whole, part = divmod(abs(units), SCALE)
    sign = "-" if units < 0 else ""
    return f"{sign}{whole}.{part:018d}".rstrip("0").rstrip(".")


def to_usd(units: int) -> Decimal:
    """Attodollars as USD, exactly."""
    return Decimal(to_text(units))


def clean(text: str) -> str:
    """The text, without what cannot be stored as UTF-8 (lone surrogates)."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def hour_of(at: float) -> int:
    """The UTC hour since 1970 that a Unix time lies in, kept inside the calendar."""
    if not at > 0:  # also not a number
        return 0
    return int(at // 3600) if at < LAST_HOUR * 3600 else LAST_HOUR


def window(period: str, hour: int) -> tuple[int, int]:
    """The first hour of the period that an hour lies in, and the first one after it, by the UTC calendar."""
    if period == "hour":
        return hour, hour + 1
    if period == "day":
        return hour // 24 * 24, hour // 24 * 24 + 24
    if period == "total":
        return 0, LAST_HOUR + 1
    day = datetime.fromtimestamp(hour * 3600, tz=UTC)
    first = datetime(day.year, day.month, 1, tzinfo=UTC)
    if first.year == MAXYEAR and first.month == 12:  # noqa: PLR2004 - December
        return hour_of(first.timestamp()), LAST_HOUR + 1
    after = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
    return hour_of(first.timestamp()), hour_of(after.timestamp())


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why money was not reserved.

    Attributes:
        budget: The budget that has too little left; None if no budget could be checked at all (the ledger
            is closed, its file is locked, the disk is full, ...): what cannot be checked is refused.
        left_usd: What that budget had left; 0 if it could not be checked.
        asked_usd: What was asked for.
        because: The same as a text that begins with a stable code, `budget:`, `ledger:` or `shared:`.
        final: Whether waiting is of no use in this period: it is spent, and not only set aside for others.
        ends_at: Unix time at which the period ends; None if it never does, or no budget was checked.
    """

    budget: Budget | None
    left_usd: Decimal
    asked_usd: Decimal
    because: str
    final: bool = True
    ends_at: float | None = None

    def __str__(self) -> str:
        return self.because


class Standing(NamedTuple):
    """How a budget stood after the last transaction.

    Attributes:
        start: The period's first hour.
        end: The first hour after it.
        left: Attodollars that may be reserved.
        free: Attodollars that might be if all that is set aside came back.
    """

    start: int
    end: int
    left: int
    free: int


@dataclass(slots=True)
class Account:
    """One budget and what is booked on it in the period that runs.

    Attributes:
        budget: The limit.
        limit: The same in attodollars.
        start: The first hour of the period.
        end: The first hour after the period.
        settled: Attodollars spent in the period.
        reserved: Attodollars set aside in the period.
    """

    budget: Budget
    limit: int
    start: int = 0
    end: int = 0
    settled: int = 0
    reserved: int = 0

    @classmethod
    def of(cls, budget: Budget) -> Account:
        """An empty account. The limit is what the float says when it is written down: 0.1 is a tenth."""
        return cls(budget, to_units(Decimal(repr(budget.usd))))

    @property
    def left(self) -> int:
        """Attodollars that may still be reserved; never below 0."""
        return max(0, self.limit - self.settled - self.reserved)

    @property
    def free(self) -> int:
        """Attodollars that could be reserved if all that is set aside came back; never below 0."""
        return max(0, self.limit - self.settled)

    @property
    def ends_at(self) -> float | None:
        """Unix time at which the period ends; None if it never does."""
        return None if self.budget.period == "total" else self.end * 3600.0

    def covers(self, model: str, task: str) -> bool:
        """Whether requests of this task to this model count. An empty task is none."""
        budget = self.budget
        return (budget.model is None or budget.model == model) and (
            budget.task is None or budget.task == task
        )

    def refusal(self, units: int) -> Refusal:
        """The refusal of an amount that does not fit."""
        left, asked = to_usd(self.left), to_usd(units)
        because = f"budget: {left} USD left of {self.name}, {asked} USD asked"
        if self.reserved:
            because += f"; {to_usd(self.reserved)} USD set aside for requests under way"
        because += self.until
        return Refusal(self.budget, left, asked, because, units > self.free, self.ends_at)

    @property
    def name(self) -> str:
        """The budget in words: `1 USD per day for task 'support'`."""
        budget = self.budget
        scope = "".join(
            f" for {what} {name!r}"
            for what, name in (("task", budget.task), ("model", budget.model))
            if name is not None
        )
        per = "in all" if budget.period == "total" else f"per {budget.period}"
        return f"{budget.usd:g} USD {per}{scope}"

    @property
    def until(self) -> str:
        """When the period ends, as the end of a sentence; empty if it never does."""
        ends_at = self.ends_at
        if ends_at is None or not 0 < self.end <= LAST_HOUR:
            return ""
        return f"; the period ends {datetime.fromtimestamp(ends_at, tz=UTC):%Y-%m-%d %H:%M} UTC"
