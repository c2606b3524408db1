"""From a checked request to a ranking: reads the features and the situation, ranks, and says why nobody may.

Everything here is pure but for what it is given to read: the clock, the ledger's last word on budgets, and
how busy the adapters are.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from router.config import Policy, RoutingOptions
from router.decision import Features
from router.errors import (
    AllModelsFailedError,
    BudgetExceededError,
    InvalidRequestError,
    NoEligibleModelError,
    RouterClosedError,
    nearest,
)
from router.estimates import Situation, price_parts
from router.features import needs_of
from router.fleet import Fleet
from router.objective import Rules, objective
from router.ranking import rank
from router.request import ChatRequest
from router.routing import Routing
from router.traffic import LEAST_LEFT, Flow
from router.validation import ParsedRequest

if TYPE_CHECKING:
    from router.core import Core
    from router.prefixes import Prompt

__all__ = ["choose", "decide", "explore", "rules_of", "situation_of"]

#: A model with fewer answers than this is "little known of": exploration may pick it.
KNOWN_AFTER = 20
#: Exploring hopes for figures so many standard deviations better than they are believed to be.
HOPE = 1.5
#: Answers from which a model's speed is measured.
MEASURED_AFTER = 3
#: How wrong the forecast of a length may be before there was an answer: the standard deviation of its log.
LENGTH_DOUBT = 0.7
#: Candidates that exploration looks at.
MOST_EXPLORED = 64


def choose(core: Core, parsed: ParsedRequest) -> Routing:
    """Ranks the models for a request.

    Raises:
        InvalidRequestError: if it names a model that is not declared.
        NoEligibleModelError: if no model may take it; the error carries the decision.
        AllModelsFailedError: if all that may are failing and left alone for now.
        RouterClosedError: if the router was closed.
    """
    if core.closed:
        raise RouterClosedError
    rules = _rules(core, parsed)
    prompt = _prompt(parsed.request)
    features = _features(core, parsed, rules, prompt.total)
    return decide(core, parsed.request, parsed.options, rules, features, prompt=prompt)


def decide(
    core: Core,
    request: ChatRequest,
    options: RoutingOptions,
    rules: Rules,
    features: Features,
    *,
    prompt: Prompt | None = None,
) -> Routing:
    """Ranks the models for a request whose features were read.

    With its prompt, what of it each model has cached is part of the estimates.

    Raises:
        NoEligibleModelError: as `choose`.
        AllModelsFailedError: as `choose`.
    """
    fleet, now = core.fleet, core.now()
    ranked = rank(fleet, features, rules, situation_of(core, fleet, features, prompt))
    routing = Routing(
        id=uuid.uuid4().hex,
        at=core.wall(),
        request=request,
        options=options,
        fleet=fleet,
        features=features,
        prompt=prompt,
        ranked=ranked,
        rules=rules,
        began_at=now,
        deadline_at=now + (options.deadline or float("inf")),
        notes=tuple(f"relaxed: {name}" for name in ranked.relaxed),
    )
    if not ranked.order:
        raise _nobody(core, routing)
    return routing


def rules_of(policy: Policy, options: RoutingOptions, *, pinned: str | None = None) -> Rules:
    """The policy as it holds for one request."""
    return Rules(
        policy=policy,
        min_quality=policy.min_quality if options.min_quality is None else options.min_quality,
        max_cost=policy.max_cost if options.max_cost is None else options.max_cost,
        max_latency=policy.max_latency,
        max_ttft=policy.max_ttft if options.max_ttft is None else options.max_ttft,
        deadline=options.deadline,
        private="private" in (policy.privacy, options.privacy),
        models=options.models,
        exclude=options.exclude,
        pinned=pinned,
    )


def _rules(core: Core, parsed: ParsedRequest) -> Rules:
    fleet = core.fleet
    options = parsed.options
    for field_name, names in (("models", options.models or ()), ("exclude", options.exclude)):
        for name in names:
            if name not in fleet.place:
                raise _no_such_model(f"routing.{field_name}", name, fleet)
    pinned = None if parsed.model == "auto" else parsed.model
    if pinned is not None and pinned not in fleet.place:
        raise _no_such_model("model", pinned, fleet)
    return rules_of(core.config.policy, options, pinned=pinned)


def _features(core: Core, parsed: ParsedRequest, rules: Rules, prompt_tokens: int) -> Features:
    request, options = parsed.request, parsed.options
    expected = core.fleet.learned.forecasts.expected(options.task)
    return Features(
        prompt_tokens=prompt_tokens,
        expected_output_tokens=min(expected, request.max_tokens or expected),
        max_output_tokens=request.max_tokens,
        needs=needs_of(request),
        task=options.task,
        language=options.language,
        sensitivity="private" if rules.private else "any",
        session=options.session,
        stream=request.stream,
        choices=request.choices,
    )


def situation_of(core: Core, fleet: Fleet, features: Features, prompt: Prompt | None = None) -> Situation:
    """How things stand right now: waits, what is under way, caches, breakers, money."""
    now, flows = core.now(), core.traffic.flows
    core.fade(fleet, now)
    waits: dict[int, float] = {}
    loads: dict[int, float] = {}
    limits: dict[int, float] = {}
    slowdowns: dict[int, tuple[float, float]] = {}
    for name in tuple(flows):
        flow, busy = flows.get(name), fleet.place.get(name)
        if flow is not None and busy is not None:
            slowdowns[busy] = fleet.learned.slowdown(busy, flow.count)
    for place in fleet.asked:
        _ask(fleet, place, flows.get(fleet.names[place]), now, (waits, loads, slowdowns))
    for name, limiter in core.limiters.items():
        if name in fleet.place:
            limited = fleet.place[name]
            tokens = features.prompt_tokens + features.expected_output_tokens
            wait = limiter.wait(tokens, now, fleet.learned.service[limited])
            if wait:
                limits[limited] = wait
                waits[limited] = waits.get(limited, 0.0) + wait
    cached: dict[int, float] = {}
    if prompt is not None:
        shared = core.prefixes.expect(prompt, now)
        cached = {fleet.place[name]: found.share for name, found in shared.items() if name in fleet.place}
    shut = {fleet.place[name]: why for name, why in core.health.shut(now).items() if name in fleet.place}
    return Situation(
        waits=waits,
        loads=loads,
        limits=limits,
        slowdowns=slowdowns,
        cached=cached,
        shut=shut,
        budget_left=_budget_left(core, fleet, features.task),
    )


def _ask(
    fleet: Fleet,
    place: int,
    flow: Flow | None,
    now: float,
    found: tuple[dict[int, float], dict[int, float], dict[int, tuple[float, float]]],
) -> None:
    """Asks a model in this process how busy it is: its loading, and the requests before this one."""
    waits, loads, slowdowns = found
    learned, adapter = fleet.learned, fleet.loaded_adapter(place)
    said = adapter.load() if adapter is not None else None
    wait = 0.0
    if said is None or not said.resident:
        load = learned.load[place]
        if flow is not None:  # somebody waits for it already
            load = max(load - (now - flow.since), LEAST_LEFT * load)
        loads[place] = wait = load
    if said is not None:
        ours = flow.count if flow is not None else 0
        # What was begun for another router, or before this one knew the model, is not in our books.
        others = max(said.running + said.waiting - ours, 0)
        backlog = others * learned.service[place] + (flow.left(now) if flow is not None else 0.0)
        if said.slots is None:
            wait += said.waiting * learned.service[place] / max(said.running, 1)
        elif ours + others < said.slots:
            slowdowns[place] = learned.slowdown(place, ours + others)
        else:
            wait += backlog / said.slots
            slowdowns[place] = learned.slowdown(place, said.slots - 1)
    if wait:
        waits[place] = wait


def _budget_left(core: Core, fleet: Fleet, task: str | None) -> dict[int, float]:
    left: dict[int, float] = {}
    for budget in core.config.budget:
        if budget.task is not None and budget.task != task:
            continue
        amount = float(core.ledger.left(budget))
        names = fleet.names if budget.model is None else (budget.model,)
        for name in names:
            if name in fleet.place:
                held = fleet.place[name]
                left[held] = min(left.get(held, amount), amount)
    return left


def _nobody(core: Core, routing: Routing) -> NoEligibleModelError | AllModelsFailedError:
    """The error for a request that no model may take."""
    reasons = routing.ranked.rejections()
    decision = routing.decision(model=None)
    shut = [name for name, reason in reasons.items() if reason.startswith("health:")]
    causes = [error for name in shut if (error := core.health.last_error(name)) is not None]
    if causes:
        failed = AllModelsFailedError(causes, note="every eligible model is failing and left alone for now")
        failed.decision = decision
        return failed
    money = any(reason.startswith("budget:") for reason in reasons.values())
    kind = BudgetExceededError if money else NoEligibleModelError
    what = "the budget has no room for this request" if money else "no model is eligible for this request"
    return kind(what, reasons=reasons, decision=decision)


def explore(core: Core, routing: Routing) -> None:
    """Now and then puts a model first that may well be better than is known. Breaks no constraint.

    A model may be better if it would be the best were it as good as can be hoped for: as fast and as terse as
    its figures are uncertain. One whose price alone makes it dearer is never tried. (Optimism in the face of
    uncertainty, as UCB has it, but for a bounded share of requests.)
    """
    policy = core.config.policy
    share = policy.explore if policy.rank_by == "objective" else 0.0
    if not share or len(routing.order) < 2 or core.random.random() >= share:  # noqa: PLR2004 - a choice
        return
    late = routing.ranked.late
    on_time = [place for place in routing.order if place not in late] if late else list(routing.order)
    if len(on_time) < 2:  # noqa: PLR2004 - nothing to choose from
        return
    place = (_least_known if policy.utility is not None else _most_promising)(core, routing, on_time)
    if place is not None:
        routing.ranked.order.remove(place)
        routing.ranked.order.insert(0, place)
        routing.notes = (*routing.notes, "explored: it may be better than is known yet")


def _least_known(_core: Core, routing: Routing, on_time: Sequence[int]) -> int | None:
    """The model with the fewest answers, if they are few: an app's own utility tells no more."""
    samples = routing.fleet.learned.samples
    place = min(on_time[1:], key=lambda place: samples[place])
    return place if samples[place] < KNOWN_AFTER else None


def _most_promising(core: Core, routing: Routing, on_time: Sequence[int]) -> int | None:
    """The model that would be the best if all went as well as can be hoped, if there is one."""
    fleet, features, policy, now = routing.fleet, routing.features, core.config.policy, core.now()
    quality = fleet.quality(features.task)
    outputs = fleet.learned.forecasts.outputs(features.task)

    def hoped(place: int) -> float:
        found = routing.estimate(place)
        seen = outputs.seen.get(place, 0)
        terse = math.exp(-HOPE * LENGTH_DOUBT / math.sqrt(1.0 + seen))
        # What a profile says of a speed is no measurement: until there are some, nothing is ruled out.
        measured = fleet.learned.samples[place] >= MEASURED_AFTER
        fast = math.exp(-fleet.learned.hope(place, now)) if measured else 0.0
        cost = found.cost if math.isfinite(found.cost) else 0.0
        answer = price_parts(fleet, place, features, found).get("answer USD", 0.0)
        best = found._replace(
            cost=cost - (1.0 - terse) * answer,
            latency=found.wait + (found.first + found.decode * terse) * fast,
        )
        return objective(policy, best, quality[place])

    first = on_time[0]
    known = objective(policy, routing.estimate(first), quality[first])
    hopes = {place: hoped(place) for place in on_time[1:MOST_EXPLORED]}
    place = min(hopes, key=hopes.__getitem__)
    return place if hopes[place] < known else None


def _prompt(request: ChatRequest) -> Prompt:
    from router.prefixes import read_prompt

    tools = request.params.get("tools")
    return read_prompt(
        request.messages,
        tools if isinstance(tools, list) else None,
        response_format=request.params.get("response_format"),
    )


def _no_such_model(field_name: str, name: str, fleet: Fleet) -> InvalidRequestError:
    return InvalidRequestError(
        f"{field_name} = {name!r}: no such model{nearest(name, fleet.names)}",
        field=field_name,
        value=repr(name),
    )
