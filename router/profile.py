"""What is known of a model before it is asked anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["UNKNOWN_PRICE", "PriceTable", "Profile", "Speed", "Tier"]


@dataclass(frozen=True, slots=True)
class Tier:
    """Prices that hold for the whole request once its prompt is longer than `above` tokens.

    USD per million tokens; `cached_input` None means that cached tokens cost what others cost.
    """

    above: int
    input: float
    output: float
    cached_input: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """What a hosted model costs.

    Attributes:
        tiers: By rising `above`; the first has `above=0`. Empty: the price is unknown.
        per_request: USD per request.
        source: Where the prices come from, with their date, for `explain()`.
    """

    tiers: tuple[Tier, ...]
    per_request: float = 0.0
    source: str = ""

    def at(self, prompt_tokens: float) -> Tier | None:
        """The tier for a prompt of so many tokens; None if the price is unknown."""
        found = None
        for tier in self.tiers:
            if tier.above and prompt_tokens <= tier.above:
                break
            found = tier
        return found


UNKNOWN_PRICE = PriceTable(tiers=(), source="unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a model is believed to be before anything was measured.

    Attributes:
        ttft: Seconds to the first token of an empty prompt, on a warm connection or a loaded model.
        prefill: Prompt tokens per second.
        decode: Output tokens per second.
        load: Seconds to load it; 0 for a hosted model.
    """

    ttft: float
    prefill: float
    decode: float
    load: float = 0.0


#: An assumption, not a measurement: the middle of the field. It only matters until the first answers.
HOSTED_SPEED = Speed(ttft=0.6, prefill=10_000.0, decode=60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a model declares of itself and what the catalogue or its file adds.

    Attributes:
        price: None unless the model is paid per token.
        usd_per_hour: What an hour of computing costs; None if the model is paid per token.
        context_window: Tokens of prompt and answer together; None if unknown.
        max_output: The most output tokens; None if unknown.
        capabilities: What the model can do (`router.capabilities`); None if unknown, which admits it.
        languages: ISO 639-1 codes; None if unknown.
        private: Whether prompts stay on the owner's machines.
        local: Whether the model runs in this process.
        licence: SPDX id or a name; None if unknown.
        quality: Probability of a good answer per task; `default` for the others.
        speed: The prior for latency.
        unavailable: Why the model cannot be asked at all, beginning with a stable code; None if it can.
        credentials: Environment variable that must be set for the model to be asked; None if none.
        rpm: Requests per minute at most.
        tpm: Tokens per minute at most.
        max_concurrency: Requests at once at most.
        kept_tokens: Tokens of recent prompts and answers that the model keeps computed as long as it stays
            loaded, about; None if it keeps them by time, or not at all.
        continues: Whether it goes on exactly with an answer that another model began (`Call.prefix`).
        notes: Further facts for people (`architecture`, `quantisation`, ...).
    """

    price: PriceTable | None = None
    usd_per_hour: float | None = None
    context_window: int | None = None
    max_output: int | None = None
    capabilities: frozenset[str] | None = None
    languages: frozenset[str] | None = None
    private: bool = False
    local: bool = False
    licence: str | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    speed: Speed = HOSTED_SPEED
    unavailable: str | None = None
    credentials: str | None = None
    rpm: int | None = None
    tpm: int | None = None
    max_concurrency: int | None = None
    kept_tokens: int | None = None
    continues: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)
