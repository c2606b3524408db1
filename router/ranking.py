"""Estimates every model for a request and ranks them. Pure: facts in, a ranking out.

The loop runs over columns and keeps a small tuple per model; `Candidate`s are built when somebody looks (see
`ranked`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from router.decision import Candidate, Features
from router.errors import ConfigurationError, shown
from router.estimates import Situation, estimate
from router.fleet import EligibilityKey, Fleet
from router.learning.lognormal import quantile, z_of
from router.learning.pace import PRIOR_SPREAD
from router.objective import MEASURED_AFTER, RELAXED, Breach, Rules, breaches, code_of, sort_key
from router.ranked import Ranked

__all__ = ["rank"]

#: Codes of the constraints on time.
_TIME = ("max_latency", "max_ttft")


def rank(fleet: Fleet, features: Features, rules: Rules, now: Situation) -> Ranked:
    """Ranks the models of a fleet for a request.

    Raises:
        ConfigurationError: if the policy's own utility raises or returns no number.
    """
    ranked = _rank(fleet, features, rules, now)
    if not ranked.order and now.ripe and rules.pinned is None:
        # Those that are left may all have broken a constraint: again, with those that are shut.
        again = _rank(fleet, features, rules, now, despite=now.soft | now.ripe)
        if again.order:
            return again
    return ranked


def _rank(
    fleet: Fleet,
    features: Features,
    rules: Rules,
    now: Situation,
    despite: frozenset[int] | None = None,
) -> Ranked:
    key = EligibilityKey(
        features.needs, rules.private, features.language, rules.models, rules.exclude, rules.pinned
    )
    static = fleet.eligibility(key)
    ranked = Ranked(fleet, rules, features, now, static)
    places = _open(ranked, static.places, now, despite)
    estimate(fleet, features, places, now, estimates=ranked.estimates, reasons=ranked.reasons)
    ranked.order = list(ranked.estimates)
    _keep_hard_limits(ranked, now)
    if rules.has_constraints:
        _keep_constraints(ranked)
    _sort(ranked)
    return ranked


def _open(
    ranked: Ranked, places: tuple[int, ...], now: Situation, despite: frozenset[int] | None
) -> list[int]:
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
    if now.shut and ranked.rules.pinned is None:
        ranked.despite = _despite(places, missing, now) if despite is None else despite
    for place in places:
        if place in missing:
            ranked.reasons[place] = missing[place]
        elif place in now.shut and place not in ranked.despite and ranked.rules.pinned is None:
            ranked.reasons[place] = now.shut[place]
        elif place in now.full and ranked.rules.pinned is None:
            ranked.reasons[place] = f"queue: full; there may be room in {now.full[place]:.1f} s"
        else:
            kept.append(place)
    return kept


def _despite(places: tuple[int, ...], missing: Mapping[int, str], now: Situation) -> frozenset[int]:
    """Models that are shut and may be asked all the same, after all others: nothing is lost to noise.

    Those that answer some of their calls always may. Those that answer none only if nobody else is left.
    """
    able = [place for place in places if place not in missing]
    despite = now.soft.intersection(able)
    if not despite and all(place in now.shut for place in able):
        return now.ripe.intersection(able)
    return despite


def _sort(ranked: Ranked) -> None:
    """Puts the best first. Ties stay as declared; what is expected to miss the deadline comes last."""
    policy, found = ranked.rules.policy, ranked.estimates
    quality = ranked.fleet.quality(ranked.features.task)
    if policy.utility is not None:
        ranked.utilities = {
            place: _own_utility(policy.utility, ranked.candidate(place)) for place in ranked.order
        }
        ranked.order.sort(key=lambda place: -ranked.utilities[place])
    else:
        key = sort_key(policy)
        ranked.order.sort(key=lambda place: key(found[place], quality[place]))
    deadline = ranked.rules.deadline
    if deadline is not None:
        # Each once: a quantile takes a few microseconds.
        within = {place: found[place].latency_within(policy.confidence) for place in ranked.order}
        late = frozenset(place for place in ranked.order if within[place] > deadline)
        doubtful = {place for place in late if _may_keep(ranked, place, deadline, None)}
        ranked.late = late - doubtful
        ranked.probation = (ranked.probation | doubtful) - ranked.late
        if ranked.late:
            # What is likely to miss it comes last, the likeliest to make it first.
            ranked.order.sort(key=lambda place: within[place] if place in ranked.late else 0.0)
    if ranked.probation or ranked.despite or ranked.now.silent:
        ranked.order.sort(key=partial(_hardly, ranked))


def _hardly(ranked: Ranked, place: int) -> int:
    """How little a model is to be relied on now, whatever it is worth."""
    return (
        (place in ranked.now.silent) * 8
        + (place in ranked.late) * 4
        + (place in ranked.despite) * 2
        + (place in ranked.probation)
    )


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
