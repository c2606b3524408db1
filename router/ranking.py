"""Estimates every model for a request and ranks them. Pure: facts in, a ranking out.

The loop runs over columns and keeps a small tuple per model; `Candidate`s are built when somebody looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import chain, islice

from router.decision import Candidate, Features, Ranking
from router.errors import ConfigurationError, shown
from router.estimates import Situation, cost_within, estimate, price_parts
from router.fleet import Eligibility, EligibilityKey, Fleet
from router.learning.lognormal import quantile, z_of
from router.learning.pace import PRIOR_SPREAD
from router.objective import (
    MEASURED_AFTER,
    RELAXED,
    Breach,
    Estimate,
    Rules,
    breaches,
    code_of,
    reason_of,
    sort_key,
    worth,
)

__all__ = ["Ranked", "rank"]

#: Parts of an estimate that are told even if they are nothing, and what the others are when they are nothing.
_ALWAYS = frozenset(
    ("tokens in", "tokens out", "wait s", "prefill s", "decode s", "confidence", "answers seen")
)
_IDLE = {"slowdown": 1.0}
#: Codes of the constraints on time.
_TIME = ("max_latency", "max_ttft")


class Ranked(Ranking):
    """The outcome: places of the eligible models, best first, and why the others are not among them."""

    __slots__ = (
        "_candidates",
        "_utilities",
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
        self._utilities: dict[int, float] = {}
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
        if place in self._utilities:
            return self._utilities[place]
        return worth(self.rules.policy, found, quality)

    def sort(self) -> None:
        """Puts the best first. Ties stay as declared; what is expected to miss the deadline comes last."""
        policy, found = self.rules.policy, self.estimates
        quality = self.fleet.quality(self.features.task)
        if policy.utility is not None:
            self._utilities = {
                place: _own_utility(policy.utility, self.candidate(place)) for place in self.order
            }
            self.order.sort(key=lambda place: -self._utilities[place])
        else:
            key = sort_key(policy)
            self.order.sort(key=lambda place: key(found[place], quality[place]))
        deadline = self.rules.deadline
        if deadline is not None:
            # Each once: a quantile takes a few microseconds.
            within = {place: found[place].latency_within(policy.confidence) for place in self.order}
            late = frozenset(place for place in self.order if within[place] > deadline)
            doubtful = {place for place in late if _may_keep(self, place, deadline, None)}
            self.late = late - doubtful
            self.probation = (self.probation | doubtful) - self.late
            if self.late:
                # What is likely to miss it comes last, the likeliest to make it first.
                self.order.sort(key=lambda place: within[place] if place in self.late else 0.0)
        if self.probation:
            self.order.sort(key=lambda place: (place in self.late) * 2 + (place in self.probation))

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
        return tuple(notes)


def rank(fleet: Fleet, features: Features, rules: Rules, now: Situation) -> Ranked:
    """Ranks the models of a fleet for a request.

    Raises:
        ConfigurationError: if the policy's own utility raises or returns no number.
    """
    key = EligibilityKey(
        features.needs, rules.private, features.language, rules.models, rules.exclude, rules.pinned
    )
    static = fleet.eligibility(key)
    ranked = Ranked(fleet, rules, features, now, static)
    places = _open(ranked, static.places, now)
    estimate(fleet, features, places, now, estimates=ranked.estimates, reasons=ranked.reasons)
    ranked.order = list(ranked.estimates)
    _keep_hard_limits(ranked, now)
    if rules.has_constraints:
        _keep_constraints(ranked)
    ranked.sort()
    return ranked


def _slowdown(found: Estimate, first: float, rest: float) -> float:
    """How many times as long as alone an answer takes as a whole."""
    if first == rest == 1.0:
        return 1.0
    alone = found.first / first + found.decode / rest
    return found.work / alone if alone else 1.0


def _open(ranked: Ranked, places: tuple[int, ...], now: Situation) -> list[int]:
    """Leaves out what cannot be asked at this moment."""
    fleet = ranked.fleet
    missing = {
        place: f"credentials: {variable} is not set"
        for place in fleet.keyed
        if (variable := fleet.missing_credentials(place)) is not None
    }
    if not missing and not now.shut and not now.full:
        return list(places)
    kept = []
    for place in places:
        if place in missing:
            ranked.reasons[place] = missing[place]
        elif place in now.shut and ranked.rules.pinned is None:
            ranked.reasons[place] = now.shut[place]
        elif place in now.full and ranked.rules.pinned is None:
            ranked.reasons[place] = f"queue: full; there may be room in {now.full[place]:.1f} s"
        else:
            kept.append(place)
    return kept


def _own_utility(utility: Callable[[Candidate], float], candidate: Candidate) -> float:
    """What the policy's own callable says.

    Raises:
        ConfigurationError: if it raises or returns no number.
    """
    try:
        said = utility(candidate)
        value = math.nan if isinstance(said, bool | str | bytes) else float(said)
    except Exception as error:  # it is the app's own code: it may raise anything
        raise ConfigurationError(
            f"policy.utility failed for {candidate.model}: {type(error).__name__}: {error}",
            field="policy.utility",
        ) from error
    if math.isnan(value):
        raise ConfigurationError(
            f"policy.utility = {shown(said)} for {candidate.model}: a number is needed",
            field="policy.utility",
            value=shown(said),
        )
    return value


def _keep_hard_limits(ranked: Ranked, now: Situation) -> None:
    """Leaves out models of unknown price where cost matters, and those that a budget has no money for."""
    rules, left = ranked.rules, now.budget_left
    needs_price = rules.needs_price
    if not needs_price and not left:
        return
    kept = []
    for place in ranked.order:
        cost = ranked.estimates[place].cost
        budgeted = place in left
        if cost != cost and (needs_price or (budgeted and rules.pinned is None)):  # noqa: PLR0124 - NaN, fast
            ranked.reasons[place] = "price: unknown"
        elif budgeted and cost > left[place]:
            ranked.reasons[place] = ("budget", cost, left[place])
        else:
            kept.append(place)
    ranked.order[:] = kept


def _keep_constraints(ranked: Ranked) -> None:
    """Moves what breaks a constraint from the order to the reasons, relaxing if the policy says so."""
    rules, quality = ranked.rules, ranked.fleet.quality(ranked.features.task)
    broken: dict[int, tuple[Breach, ...]] = {}
    probation: set[int] = set()
    for place in ranked.order:
        found = breaches(rules, ranked.estimates[place], quality[place])
        if not found:
            continue
        others = tuple(breach for breach in found if code_of(breach) not in _TIME)
        if len(others) < len(found) and _may_keep(ranked, place, rules.max_latency, rules.max_ttft):
            found = others
            probation.add(place)
        if found:
            broken[place] = found
    ranked.probation = frozenset(probation - broken.keys())
    if not broken:
        return
    kept = [place for place in ranked.order if place not in broken]
    if not kept and rules.policy.on_infeasible == "relax":
        kept = _relax(ranked, broken)
    still_in = set(kept)
    ranked.order[:] = kept
    for place, found in broken.items():
        if place not in still_in:
            ranked.reasons[place] = found[0]


def _may_keep(ranked: Ranked, place: int, latency: float | None, ttft: float | None) -> bool:
    """Whether a model may keep limits on time although its figures say that it does not.

    One that was hardly asked yet is taken at its profile's word: its honest doubt breaks every limit, and
    nobody would ever find out. One that became slow is looked at again after a while: otherwise a spell of a
    minute would shut it out for hours, since who is not asked shows nothing.
    """
    found, confidence = ranked.estimates[place], ranked.rules.policy.confidence
    factor = ranked.fleet.learned.probation(place, ranked.now.at)
    if factor is None:
        if found.seen >= MEASURED_AFTER:
            return False
        factor = 1.0
    z = z_of(confidence)
    work, first = (quantile(factor * mean, PRIOR_SPREAD, z) for mean in (found.work, found.first))
    return (latency is None or found.wait + work <= latency) and (ttft is None or found.wait + first <= ttft)


def _relax(ranked: Ranked, broken: Mapping[int, tuple[Breach, ...]]) -> list[int]:
    """Gives constraints up, one after the other, until a model is left."""
    given_up: set[str] = set()
    for name in RELAXED:
        given_up.add(name)
        kept = [place for place in ranked.order if given_up.issuperset(map(code_of, broken[place]))]
        if kept:
            used = {code_of(breach) for place in kept for breach in broken[place]}
            ranked.relaxed = tuple(code for code in RELAXED if code in used)
            return kept
    return []
