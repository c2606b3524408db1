"""The profile of a hosted model: what the app declared, then our own rows, then genai-prices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.capabilities import ASSUMED, CAPABILITIES, IMPLIED
from router.catalogue.prices import Listed, listed
from router.catalogue.providers import Provider, provider_of
from router.catalogue.rows import Row, rows_of
from router.profile import UNKNOWN_PRICE, PriceTable, Profile, Tier

if TYPE_CHECKING:
    from router.models import HostedModel

__all__ = ["hosted_profile"]

_FREE = PriceTable(tiers=(Tier(above=0, input=0.0, output=0.0, cached_input=0.0),), source="self-hosted")


def hosted_profile(model: HostedModel) -> Profile:
    """What is known of a hosted model. Asks no network; what nobody knows is None, or `UNKNOWN_PRICE`.

    The first call imports genai-prices, some 0.1 s of CPU; later ones take some 0.2 ms. Build it once per
    model, never per request.
    """
    provider = provider_of(model)
    rows = rows_of(provider.name, model.model_id)
    known = _listed(provider, model, rows)
    return Profile(
        price=_price(model, provider, rows, known),
        context_window=model.context_window
        or next((row.context_window for row in rows if row.context_window), None)
        or (known.context_window if known else None),
        max_output=model.max_output or next((row.max_output for row in rows if row.max_output), None),
        capabilities=_capabilities(model, provider, rows),
        languages=model.languages,
        private=model.private,
        licence=model.licence or next((row.licence for row in rows if row.licence), None),
        quality=model.quality_table,
        credentials=_credentials(model, provider),
        rpm=model.rpm,
        tpm=model.tpm,
        max_concurrency=model.max_concurrency,
        continues=provider.prefix is not None,
        notes=_notes(model, provider, rows, known),
    )


def _listed(provider: Provider, model: HostedModel, rows: tuple[Row, ...]) -> Listed | None:
    """What genai-prices says of the model, or of the one that a row says it is like."""
    like = next((row.like for row in rows if row.like), None)
    if like is not None:
        host, _, name = like.partition(":")
        return listed(host, name)
    return listed(provider.prices, model.model_id) if provider.prices else None


def _price(model: HostedModel, provider: Provider, rows: tuple[Row, ...], known: Listed | None) -> PriceTable:
    if model.price is not None:
        tier = Tier(
            above=0, input=model.price.input, output=model.price.output, cached_input=model.price.cached_input
        )
        return PriceTable(tiers=(tier,), per_request=model.price.per_request, source="declared")
    if provider.self_hosted:
        return _FREE
    row = next((row for row in rows if row.tiers), None)
    own = None if row is None else PriceTable(tiers=row.tiers, source=f"{row.source} ({row.checked})")
    theirs = known.price if known else None
    if row is not None and row.override:
        return own or UNKNOWN_PRICE
    return theirs or own or UNKNOWN_PRICE


def _capabilities(model: HostedModel, provider: Provider, rows: tuple[Row, ...]) -> frozenset[str] | None:
    """None, which admits everything, if nothing is known to be lacking.

    What the app declares goes before what a row says of the model; what the host lacks, all its models lack.
    """
    lacks = provider.lacks.union(*(row.lacks for row in rows))
    if "reasoning_effort" in lacks:  # the host refuses the field, whatever it says
        lacks |= {IMPLIED["reasoning_effort"]}
    if model.capabilities is not None:
        return model.capabilities - provider.lacks | ASSUMED - lacks
    return frozenset(CAPABILITIES) - lacks if lacks else None


def _credentials(model: HostedModel, provider: Provider) -> str | None:
    if model.api_key is not None:
        return None
    return model.api_key_env or provider.key_env


def _notes(
    model: HostedModel, provider: Provider, rows: tuple[Row, ...], known: Listed | None
) -> dict[str, str]:
    notes = {"host": provider.title, "model": model.model_id}
    if model.region:
        notes["region"] = model.region
    retired = next((row.retired for row in rows if row.retired), None)
    if retired:
        notes["retired"] = retired
    elif known is not None and known.deprecated:
        notes["deprecated"] = "by its host"
    reason = next((row.reason for row in rows if row.override), "")
    if reason and model.price is None:
        notes["price"] = reason
    return notes
