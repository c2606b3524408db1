"""How things stand right now: waits, what is under way, caches, breakers, money.

Reads nothing but what is at hand: the books of this router, the adapters' own word on how busy they are, and
the ledger's last word on budgets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from router.adapter import Load
from router.admission import is_proven, patience
from router.decision import Features
from router.estimates import Situation
from router.fleet import Fleet
from router.health import Shut
from router.paying import HEADROOM
from router.traffic import LEAST_LEFT, TELLING, UNPROVEN, Flow

if TYPE_CHECKING:
    from router.core import Core
    from router.prefixes import Prompt

__all__ = ["is_silent", "situation_of"]

#: Seconds by which a load that is late is taken to be later, at most.
MOST_LATE = 60.0
#: Seconds that a full queue has room after, at the least.
SOON = 0.05


class _Told:
    """How busy models are, by their places; see `Situation`."""

    __slots__ = ("_choices", "_fleet", "_now", "full", "loads", "slowdowns", "waits")

    def __init__(self, fleet: Fleet, now: float, choices: int) -> None:
        self._fleet = fleet
        self._now = now
        self._choices = choices
        self.waits: dict[int, float] = {}
        self.loads: dict[int, float] = {}
        self.slowdowns: dict[int, tuple[float, float]] = {}
        self.full: dict[int, float] = {}

    def take(self, place: int, said: Load | None, flow: Flow | None) -> None:
        """Takes in what an engine of this machine says, and what of this router it has under way."""
        learned, wait = self._fleet.learned, 0.0
        if said is None or not said.resident:
            load = learned.load[place]
            if flow is not None:  # somebody waits for it already
                load = _left_of_load(load, self._now - flow.since)
            self.loads[place] = wait = load
        if said is not None:
            service = learned.service[place]
            if said.full:
                self.full[place] = max(service / (said.slots or 1), SOON)
            if said.slots is None:
                wait += said.waiting * service / max(said.running, 1)
            else:
                wait += self._seat(place, said, said.slots, flow)
        if wait:
            self.waits[place] = wait

    def _seat(self, place: int, said: Load, slots: int, flow: Flow | None) -> float:
        """Seconds until an engine has a slot for one more; notes how slow it will be then."""
        learned = self._fleet.learned
        ours = flow.count if flow is not None else 0
        # What was begun for another router, or before this one knew the model, is not in our books.
        others = max(said.running + said.waiting - ours, 0)
        # Choices are answers beside each other, and one after the other where there are more than slots.
        first, slow = learned.slowdown(place, min(ours + others + self._choices - 1, slots - 1))
        self.slowdowns[place] = first, slow * max(1.0, self._choices / slots)
        if ours + others < slots:
            return 0.0
        wait = others * learned.service[place] / slots
        return wait if flow is None or ours < slots else wait + flow.seat_in(slots, self._now, slow)


def situation_of(
    core: Core,
    fleet: Fleet,
    features: Features,
    prompt: Prompt | None = None,
    *,
    deadline: float | None = None,
) -> Situation:
    """How things stand for a request; with its prompt, what of it each model has cached, too.

    `deadline`: the seconds that it has; None: as long as a router waits by itself.
    """
    now, flows = core.now(), core.traffic.flows
    core.fade(fleet, now)
    told = _Told(fleet, now, features.choices)
    silent = _look_at_flows(core, fleet, deadline, now, told)
    for place in fleet.asked:
        adapter = fleet.loaded_adapter(place)
        said = adapter.load() if adapter is not None else None
        told.take(place, said, flows.get(fleet.names[place]))
        if said is not None and not said.resident:
            core.emptied(fleet, place)
    limits = _limits(core, fleet, features, now, told)
    _turn_away(core, fleet, features, limits, deadline=deadline, told=told)
    shut = core.health.shut(now)
    return Situation(
        at=now,
        waits=told.waits,
        loads=told.loads,
        limits=limits,
        slowdowns=told.slowdowns,
        cached=_cached(core, fleet, prompt, now),
        shut={fleet.place[name]: one.reason for name, one in shut.items() if name in fleet.place},
        soft=_places(fleet, shut, lambda one: one.soft),
        ripe=_places(fleet, shut, lambda one: one.ripe),
        silent=silent,
        full=told.full,
        budget_left=_budget_left(core, fleet, features.task),
    )


def _look_at_flows(
    core: Core, fleet: Fleet, deadline: float | None, now: float, told: _Told
) -> dict[int, str]:
    """Takes in what is under way at the models. Returns why some of them are taken for dead."""
    flows, silent = core.traffic.flows, dict[int, str]()
    for name in tuple(flows):
        flow, busy = flows.get(name), fleet.place.get(name)
        if flow is not None and busy is not None:
            company = max(flow.count - core.limiters.waiting(name), 0)
            told.slowdowns[busy] = fleet.learned.slowdown(busy, company)
            if not fleet.profiles[busy].local:  # an engine knows its own queue
                excess = core.pressure.excess(name, company, deadline, now)
                if excess:
                    told.full[busy] = excess
            if is_silent(fleet, busy, flow, now):
                silent[busy] = f"health: silent, {flow.unanswered} calls unanswered"
    return silent


def _left_of_load(load: float, gone: float) -> float:
    """Seconds that a load has still to go. One that is late is taken to be late by as much again.

    Args:
        load: Seconds that it was predicted to take; 0 for what needs no loading.
        gone: Seconds for which somebody has waited for it.
    """
    return max(load - gone, LEAST_LEFT * load, min(gone - load, MOST_LATE)) if load else 0.0


def is_silent(fleet: Fleet, place: int, flow: Flow, now: float) -> bool:
    """Whether a model that is being asked looks like one that never answers.

    One that has not answered yet, ever, is not given any number of calls before it does. That cannot be said
    of one on this machine: it is slow when many come at once, and fails loudly.
    """
    if flow.silence(now) >= TELLING:
        return True
    return (
        flow.unanswered >= UNPROVEN
        and not fleet.learned.samples[place]
        and not fleet.profiles[place].local
        and flow.heard_at == -math.inf
    )


def _places(fleet: Fleet, shut: Mapping[str, Shut], holds: Callable[[Shut], bool]) -> frozenset[int]:
    if not shut:
        return frozenset()
    return frozenset(fleet.place[name] for name, one in shut.items() if holds(one) and name in fleet.place)


def _limits(core: Core, fleet: Fleet, features: Features, now: float, told: _Told) -> dict[int, float]:
    """Seconds until limits let a request go, behind all who wait for them; they add to the waits."""
    limits: dict[int, float] = {}
    answer = features.max_output_tokens or features.expected_output_tokens
    tokens = features.prompt_tokens + answer * features.choices
    for name, limiter in core.limiters.of(features.task).items():
        if name in fleet.place:
            place = fleet.place[name]
            wait = limiter.wait(tokens, now)
            if wait:
                limits[place] = wait
                told.waits[place] = told.waits.get(place, 0.0) + wait
    return limits


def _sure_wait(core: Core, name: str, features: Features) -> float:
    """Seconds that a model's limits per minute keep a request waiting, however long answers take."""
    limiter = core.limiters.get(name, features.task)
    return 0.0 if limiter is None else limiter.wait(features.prompt_tokens, core.now(), told=False)


def _turn_away(
    core: Core,
    fleet: Fleet,
    features: Features,
    limits: Mapping[int, float],
    *,
    deadline: float | None,
    told: _Told,
) -> None:
    """Notes the models whose limits let a request go too late, if at all."""
    within = math.inf if deadline is None else deadline
    longest = core.config.recovery.attempt_timeout if deadline is None else deadline
    for place, forecast in limits.items():
        wait, latest = forecast, longest
        if not is_proven(fleet, place):
            wait = min(forecast, _sure_wait(core, fleet.names[place], features))
        elif deadline is not None:
            latest -= HEADROOM * fleet.learned.service[place]
        if wait > patience(within, latest):
            told.full[place] = wait


def _cached(core: Core, fleet: Fleet, prompt: Prompt | None, now: float) -> dict[int, float]:
    """The share of a prompt that each model is expected to have cached."""
    if prompt is None:
        return {}
    shared = core.prefixes.expect(prompt, now)
    return {fleet.place[name]: found.share for name, found in shared.items() if name in fleet.place}


def _budget_left(core: Core, fleet: Fleet, task: str | None) -> dict[int, float]:
    """USD that each model may still cost, of those that a budget holds for.

    What is set aside for requests under way counts as left: whoever needs it waits for it.
    """
    left: dict[int, float] = {}
    if not core.config.budget:
        return left
    for model, amount in core.ledger.standings.spendable(task):
        for name in fleet.names if model is None else (model,):
            if name in fleet.place:
                held = fleet.place[name]
                left[held] = min(left.get(held, amount), amount)
    return left
