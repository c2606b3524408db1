"""The models of a router, with their profiles, what was learned of them, and their adapters.

A fleet is never changed but replaced (`Router.update`): a request keeps the one it began with.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from router.adapter import Adapter, AdapterSettings
from router.capabilities import lacking
from router.learning import Columns
from router.loading import load_adapter
from router.models import Model
from router.profile import Profile

__all__ = ["Eligibility", "EligibilityKey", "Fleet", "tells_load"]

#: Kinds of request whose static eligibility is remembered.
MOST_KINDS = 512
#: Assumption: half of what could be cached is, with hosts that have a price for it.
CACHED_SHARE = 0.5
#: An engine of ours keeps all that it computed, as long as there is room.
KEPT_SHARE = 1.0
#: What is said about a model and changes nothing of what answers.
_ABOUT = frozenset(
    (
        "price", "usd_per_hour", "quality", "languages", "licence", "capabilities", "private", "region",
        "api_key", "api_key_env", "rpm", "tpm", "max_concurrency", "preload", "sha256", "idle_ttl",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EligibilityKey:
    """What of a request decides which models may take it at all."""

    needs: frozenset[str]
    private: bool
    language: str | None
    models: tuple[str, ...] | None
    exclude: tuple[str, ...]
    pinned: str | None


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Places of the models that may take a kind of request, and why the others may not."""

    places: tuple[int, ...]
    reasons: dict[int, str]


class Fleet:
    """Models in the order they were declared; a model's place is its index in every column.

    Attributes:
        models: The declarations.
        names: Their names.
        place: The place of a name.
        profiles: What is known of each.
        learned: What was learned of each.
        window: Context windows in tokens; infinite where unknown.
        price_in, price_out: USD per token, of the lowest tier; NaN where the price is unknown.
        cached_saving: USD per token that a cached prompt token costs less; 0 where it costs the same.
        cached_share: What part of a known beginning a model is believed to have cached, before it told.
        kept: Tokens of what it computed that a model keeps while it is loaded; None: it keeps them by time.
        recalling: Places of models that find again what they had computed before they left memory.
        fee: USD per request.
        per_second: USD per second of computing, of local models.
        tiered: Places of models with several price tiers.
        max_output: The most output tokens, by place, where known.
        keyed: Places of models that need an environment variable's key.
        asked: Places of models whose adapter is asked how busy it is before a decision.
        users: Requests that are under way on it.
        retired: Whether it was replaced and its last request is over: nothing may begin on it.
    """

    def __init__(
        self, models: Sequence[Model], settings: AdapterSettings, before: Fleet | None = None
    ) -> None:
        self.models = tuple(models)
        self.names = tuple(model.name for model in self.models)
        self.place = {name: place for place, name in enumerate(self.names)}
        kept: dict[int, int] = {}
        if before is not None:
            kept = {self.place[name]: before.place[name] for name in self.names if self.same_as(before, name)}
        self.profiles: tuple[Profile, ...] = tuple(
            before.profiles[kept[place]] if before is not None and place in kept else model.profile()
            for place, model in enumerate(self.models)
        )
        self.learned = Columns(self.profiles)
        self._slots: list[_Slot] = [
            before._slots[kept[place]] if before is not None and place in kept else _Slot(model, settings)  # noqa: SLF001 - its own kind
            for place, model in enumerate(self.models)
        ]
        self.users = 0
        self.retired = False
        self._fill_columns()
        if before is not None:
            for place, name in enumerate(self.names):
                if self.same_backend(before, name):
                    self.learned.carry_over(place, before.learned, before.place[name])
        self.eligibility = lru_cache(MOST_KINDS)(self._eligibility)
        self.quality = lru_cache(MOST_KINDS)(self._quality)

    def _fill_columns(self) -> None:
        nan = math.nan
        self.window = [float(p.context_window or math.inf) for p in self.profiles]
        self.price_in: list[float] = []
        self.price_out: list[float] = []
        self.cached_saving: list[float] = []
        self.cached_share: list[float] = []
        self.fee: list[float] = []
        self.per_second: list[float] = []
        self.tiered: set[int] = set()
        self.max_output = {place: p.max_output for place, p in enumerate(self.profiles) if p.max_output}
        self.keyed = tuple(place for place, p in enumerate(self.profiles) if p.credentials is not None)
        for place, profile in enumerate(self.profiles):
            tiers = profile.price.tiers if profile.price else ()
            free = profile.price is None and profile.usd_per_hour is not None
            self.price_in.append(tiers[0].input / 1e6 if tiers else 0.0 if free else nan)
            self.price_out.append(tiers[0].output / 1e6 if tiers else 0.0 if free else nan)
            cached = tiers[0].cached_input if tiers else None
            self.cached_saving.append(
                (tiers[0].input - cached) / 1e6 if tiers and cached is not None else 0.0
            )
            # Who names a price for cached tokens has a cache; how often it is hit is learned.
            by_price = 0.0 if cached is None else CACHED_SHARE
            self.cached_share.append(by_price if profile.kept_tokens is None else KEPT_SHARE)
            self.fee.append(profile.price.per_request if profile.price else 0.0)
            self.per_second.append((profile.usd_per_hour or 0.0) / 3600)
            if len(tiers) > 1:
                self.tiered.add(place)
        self.kept = [profile.kept_tokens for profile in self.profiles]
        self.recalling = frozenset(
            place
            for place, model in enumerate(self.models)
            if getattr(model, "session_dir", None) is not None
        )
        self.asked = tuple(
            place
            for place, (model, profile) in enumerate(zip(self.models, self.profiles, strict=True))
            if tells_load(profile, model.adapter)
        )

    def _eligibility(self, key: EligibilityKey) -> Eligibility:
        places: list[int] = []
        reasons: dict[int, str] = {}
        for place, profile in enumerate(self.profiles):
            reason = _static_rejection(self.names[place], profile, key)
            if reason is None:
                places.append(place)
            else:
                reasons[place] = reason
        return Eligibility(tuple(places), reasons)

    def _quality(self, task: str | None) -> list[float | None]:
        """The quality of every model for a task."""
        return [
            p.quality.get(task, p.quality.get("default")) if task else p.quality.get("default")
            for p in self.profiles
        ]

    def missing_credentials(self, place: int) -> str | None:
        """The variable of a key that is not set; None if nothing is missing."""
        variable = self.profiles[place].credentials
        return variable if variable is not None and not os.environ.get(variable) else None

    def loaded_adapter(self, place: int) -> Adapter | None:
        """The adapter of a model, if it was built already."""
        return self._slots[place].adapter

    def adapter(self, place: int) -> Adapter:
        """The adapter of a model; built on first use, which may import an SDK: not on an event loop.

        Raises:
            ConfigurationError: if it cannot be built.
        """
        return self._slots[place].build()

    def adapters(self) -> list[Adapter]:
        """All adapters built so far."""
        return [slot.adapter for slot in self._slots if slot.adapter is not None]

    def same_as(self, other: Fleet, name: str) -> bool:
        """Whether both fleets hold a model of this name, declared alike."""
        return (
            name in self.place
            and name in other.place
            and self.models[self.place[name]] == other.models[other.place[name]]
        )

    def same_backend(self, other: Fleet, name: str) -> bool:
        """Whether both fleets hold a model of this name behind which the same thing computes.

        What was learned of its speed and its answers holds then, whatever it costs now.
        """
        if name not in self.place or name not in other.place:
            return False
        ours, theirs = self.models[self.place[name]], other.models[other.place[name]]
        if type(ours) is not type(theirs):
            return False
        return all(
            getattr(ours, field) == getattr(theirs, field)
            for field in type(ours).model_fields
            if field not in _ABOUT
        )

    def after_fork(self) -> None:
        """In a child process: locks that another thread may have held are made anew."""
        for slot in self._slots:
            slot.lock = threading.Lock()
        self.users = 0


class _Slot:
    """Where the adapter of one declaration stands, built or not; fleets that share the one share it."""

    __slots__ = ("adapter", "lock", "model", "settings")

    def __init__(self, model: Model, settings: AdapterSettings) -> None:
        self.model = model
        self.settings = settings
        self.adapter: Adapter | None = None
        self.lock = threading.Lock()

    def build(self) -> Adapter:
        """The adapter; built once, whoever asks first."""
        if self.adapter is None:
            with self.lock:
                if self.adapter is None:
                    self.adapter = load_adapter(self.model, self.settings)
        return self.adapter


def tells_load(profile: Profile, adapter: str) -> bool:
    """Whether a model's adapter is asked how busy it is: engines of this machine, and what is not ours."""
    return profile.local or adapter not in ("hosted", "local")


def _static_rejection(name: str, profile: Profile, key: EligibilityKey) -> str | None:
    """Why a model may not take a kind of request; None if it may. Codes are stable, before the colon."""
    if key.pinned is not None and name != key.pinned:
        return f"pinned: the request asks for {key.pinned}"
    if key.models is not None and name not in key.models:
        return "not listed: the request allows only " + ", ".join(key.models)
    if name in key.exclude:
        return "excluded: by the request"
    if key.private and not profile.private:
        return "privacy: the request is private, the model is not"
    if profile.unavailable is not None:
        return profile.unavailable
    if profile.capabilities is not None:
        missing = lacking(key.needs, profile.capabilities)
        if missing:
            return f"capability: {', '.join(missing)}"
    asked = key.language if key.pinned is None else None  # whoever names a model knows its languages
    if asked is not None and profile.languages is not None and asked not in profile.languages:
        return f"language: {asked}"
    return None
