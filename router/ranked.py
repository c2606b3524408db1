"""What ranking a request came to: places in columns, which become objects when somebody looks."""

from __future__ import annotations

import math
from itertools import chain, islice

from router.decision import Candidate, Features, Ranking
from router.estimates import Situation, cost_within, price_parts
from router.fleet import Eligibility, Fleet
from router.objective import MEASURED_AFTER, Breach, Estimate, Rules, reason_of, worth

__all__ = ["Ranked"]

#: Parts of an estimate that are told even if they are nothing, and what the others are when they are nothing.
_ALWAYS = frozenset(
    ("tokens in", "tokens out", "wait s", "prefill s", "decode s", "confidence", "answers seen")
)
_IDLE = {"slowdown": 1.0}


class Ranked(Ranking):
    """The outcome: places of the eligible models, best first, and why the others are not among them.

    Attributes:
        fleet: Whose models.
        rules: By which they were ranked.
        features: Of the request.
        now: How things stood.
        static: What does not depend on the moment.
        order: Places of the eligible, best first.
        estimates: Of every model that could be asked, by place.
        reasons: Why a model is not eligible now, by place.
        relaxed: Constraints that were given up, by their codes.
        late: Places of those that are expected to miss the deadline.
        probation: Places of those of which it is not known whether they keep the limits on time.
        despite: Places of those that health has set aside, and that may be asked when all others failed.
        utilities: What the policy's own callable said, by place; empty without one.
    """

    __slots__ = (
        "_candidates",
        "despite",
        "estimates",
        "features",
        "fleet",
        "late",
        "now",
        "order",
        "probation",
        "reasons",
        "relaxed",
        "rules",
        "static",
        "utilities",
    )

    def __init__(
        self, fleet: Fleet, rules: Rules, features: Features, now: Situation, static: Eligibility
    ) -> None:
        self.fleet = fleet
        self.rules = rules
        self.features = features
        self.now = now
        self.static = static
        self.order: list[int] = []
        self.estimates: dict[int, Estimate] = {}
        self.reasons: dict[int, Breach] = {}
        self.relaxed: tuple[str, ...] = ()
        self.late: frozenset[int] = frozenset()
        self.probation: frozenset[int] = frozenset()
        self.despite: frozenset[int] = frozenset()
        self.utilities: dict[int, float] = {}
        self._candidates: tuple[Candidate, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the eligible models, best first."""
        return tuple(self.fleet.names[place] for place in self.order)

    def reason(self, place: int) -> str | None:
        """Why a model is not eligible; None if it is."""
        found = self.static.reasons.get(place) or self.reasons.get(place)
        return None if found is None else reason_of(found)

    def rejections(self) -> dict[str, str]:
        """Every rejected model's name with the reason, as declared."""
        return {
            name: reason
            for place, name in enumerate(self.fleet.names)
            if (reason := self.reason(place)) is not None
        }

    def __len__(self) -> int:
        return len(self.fleet.names)

    def candidates(self, most: int | None = None) -> tuple[Candidate, ...]:
        """The eligible, best first, then the rejected as declared; at most `most` of them."""
        if self._candidates is not None:
            return self._candidates[:most]
        eligible = set(self.order)
        rejected = (place for place in range(len(self.fleet.names)) if place not in eligible)
        built = tuple(self.candidate(place) for place in islice(chain(self.order, rejected), most))
        if len(built) == len(self):
            self._candidates = built
        return built

    def candidate(self, place: int) -> Candidate:
        """One model as an object."""
        quality = self.fleet.quality(self.features.task)[place]
        reason = self.reason(place)
        found = self.estimates.get(place)
        if found is None:
            return Candidate(
                model=self.fleet.names[place],
                cost=None,
                ttft=None,
                latency=None,
                quality=quality,
                utility=None,
                rejected_because=reason,
            )
        confidence = self.rules.policy.confidence
        cost = None if math.isnan(found.cost) else found.cost
        return Candidate(
            model=self.fleet.names[place],
            cost=cost,
            ttft=found.ttft,
            latency=found.latency,
            quality=quality,
            utility=self._utility(place, found, quality),
            rejected_because=reason,
            cost_p95=None
            if cost is None
            else cost_within(self.fleet, place, self.features, found, confidence),
            ttft_p95=found.ttft_within(confidence),
            latency_p95=found.latency_within(confidence),
            parts=self._parts(place, found),
            notes=self._notes(place),
        )

    def _parts(self, place: int, found: Estimate) -> dict[str, float]:
        """What the estimate is made of; what is nothing is left out, but for what every answer has."""
        now = self.now
        load, limit = now.loads.get(place, 0.0), now.limits.get(place, 0.0)
        answers = self.features.choices
        parts = {
            "tokens in": found.tokens_in,
            "tokens cached": found.cached,
            "tokens out": found.tokens_out * answers,
            "tokens out p95": found.tokens_within(self.rules.policy.confidence) * answers,
            **price_parts(self.fleet, place, self.features, found),
            "wait s": found.wait,
            "load s": load,
            "rate limit s": limit,
            "queue s": max(found.wait - load - limit, 0.0),
            "prefill s": found.first,
            "decode s": found.decode,
            "failures s": found.lost,
            "slowdown": _slowdown(found, *now.slowdowns.get(place, (1.0, 1.0))),
            "confidence": self.rules.policy.confidence,
            "answers seen": found.seen,
        }
        return {
            name: value for name, value in parts.items() if name in _ALWAYS or value != _IDLE.get(name, 0)
        }

    def _utility(self, place: int, found: Estimate, quality: float | None) -> float | None:
        if place in self.utilities:
            return self.utilities[place]
        return worth(self.rules.policy, found, quality)

    def _notes(self, place: int) -> tuple[str, ...]:
        notes = []
        profile = self.fleet.profiles[place]
        if profile.context_window is None:
            notes.append("context window: unknown")
        if profile.capabilities is None:
            notes.append("capabilities: unknown")
        notes += [
            f"{key}: {profile.notes[key]}"
            for key in ("retired", "deprecated", "file")
            if key in profile.notes
        ]
        if place in self.probation:
            untried = self.fleet.learned.samples[place] < MEASURED_AFTER
            why = "hardly measured yet" if untried else "slow when it was asked last"
            notes.append(f"time limit: {why}, so whether it is kept is not known")
        if place in self.late:
            notes.append("deadline: expected to be late")
        if place in self.now.silent:
            notes.append(self.now.silent[place])
        if place in self.despite:
            notes.append(f"{self.now.shut[place]}; asked only after the others")
        return tuple(notes)


def _slowdown(found: Estimate, first: float, rest: float) -> float:
    """How many times as long as alone an answer takes as a whole."""
    if first == rest == 1.0:
        return 1.0
    alone = found.first / first + found.decode / rest
    return found.work / alone if alone else 1.0
