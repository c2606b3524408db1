"""Prices and context windows from genai-prices. The only place that imports it, and only when asked.

Nothing here touches the network: genai-prices updates itself only for those who start its updater.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from router.profile import PriceTable, Tier

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

__all__ = ["Listed", "listed"]

#: More tiers than any host has; a longer list is a mistake in the data.
_MOST_TIERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What genai-prices says of a model.

    Attributes:
        price: None if it has no price per token for it.
        context_window: Tokens; None if it does not say.
        deprecated: Whether the host has withdrawn the model or is about to.
    """

    price: PriceTable | None
    context_window: int | None
    deprecated: bool


def listed(provider: str, model: str, *, now: datetime | None = None) -> Listed | None:
    """What genai-prices says of a host's model today; None if it does not know the model.

    Args:
        provider: The host's id there.
        model: The model's name at the host.
        now: The time whose prices are wanted; None: now.
    """
    from genai_prices import __version__
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    row = next((row for row in snapshot.providers if row.id == provider), None)
    found = row.find_model(model) if row is not None else None
    if found is None:
        return None
    prices, peak = _in_force(found, now or datetime.now(UTC))
    source = f"genai-prices {__version__}: {provider}/{found.id}{', peak hours' if peak else ''}"
    return Listed(
        price=_table(prices, source),
        context_window=found.context_window,
        deprecated=bool(found.deprecated),
    )


def _in_force(model: ModelInfo, now: datetime) -> tuple[ModelPrice, bool]:
    """The price valid on that day, and whether it holds only at some hours.

    A profile is built once, so where the price changes with the hour the dearest hour is taken: budgets
    hold, and estimates err on the safe side.
    """
    from genai_prices.types import ModelPrice, StartDateConstraint

    if isinstance(model.prices, ModelPrice):
        return model.prices, False
    if not model.prices:
        return ModelPrice(), False
    today, hourly = model.prices[0].prices, []
    for conditional in model.prices:
        constraint = conditional.constraint
        if constraint is None or (isinstance(constraint, StartDateConstraint) and constraint.active(now)):
            today = conditional.prices
        elif not isinstance(constraint, StartDateConstraint):
            hourly.append(conditional.prices)
    dearest = max([today, *hourly], key=lambda price: _at(price.input_mtok, 0) or Decimal(0))
    return dearest, dearest is not today


def _table(prices: ModelPrice, source: str) -> PriceTable | None:
    if prices.input_mtok is None or prices.output_mtok is None:
        return None
    kinds = (prices.input_mtok, prices.output_mtok, prices.cache_read_mtok)
    starts = sorted({0, *(start for kind in kinds for start in _starts(kind))})[:_MOST_TIERS]
    requests = _at(prices.requests_kcount, 0)
    return PriceTable(
        tiers=tuple(_tier(prices, start) for start in starts),
        per_request=float(requests / 1000) if requests else 0.0,
        source=source,
    )


def _tier(prices: ModelPrice, start: int) -> Tier:
    cached = _at(prices.cache_read_mtok, start)
    return Tier(
        above=start,
        input=float(_at(prices.input_mtok, start) or 0),
        output=float(_at(prices.output_mtok, start) or 0),
        cached_input=None if cached is None else float(cached),
    )


def _starts(price: Decimal | TieredPrices | None) -> list[int]:
    return [] if price is None or isinstance(price, Decimal) else [tier.start for tier in price.tiers]


def _at(price: Decimal | TieredPrices | None, start: int) -> Decimal | None:
    """The price of requests whose prompt is just longer than `start` tokens."""
    if price is None or isinstance(price, Decimal):
        return price
    found = price.base
    for tier in price.tiers:
        if start >= tier.start:
            found = tier.price
    return found
