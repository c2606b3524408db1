"""From a checked request to a ranking: reads the features and the situation, ranks, and says why nobody may.

Everything here is pure but for what it is given to read: the clock, the ledger's last word on budgets, and
how busy the adapters are.
"""

from __future__ import annotations

import uuid
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
from router.estimates import Situation
from router.features import needs_of
from router.fleet import Fleet
from router.objective import Rules
from router.ranking import rank
from router.request import ChatRequest
from router.routing import Routing
from router.traffic import LEAST_LEFT, Flow
from router.validation import ParsedRequest

if TYPE_CHECKING:
    from router.core import Core
    from router.prefixes import Prompt

__all__ = ["choose", "decide", "features_of", "rules_of", "situation_of"]


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
    features = features_of(
        core,
        parsed.request,
        parsed.options,
        rules,
        prompt_tokens=prompt.total,
        needs=needs_of(parsed.request),
    )
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


def features_of(
    core: Core,
    request: ChatRequest,
    options: RoutingOptions,
    rules: Rules,
    *,
    prompt_tokens: int,
    needs: frozenset[str],
) -> Features:
    """What is known of a request before it is routed; `prompt_tokens` by our own count."""
    expected = core.fleet.learned.forecasts.expected(options.task)
    return Features(
        prompt_tokens=prompt_tokens,
        expected_output_tokens=min(expected, request.max_tokens or expected),
        max_output_tokens=request.max_tokens,
        needs=needs,
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
        at=now,
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
