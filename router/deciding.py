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
from router.learning import EXPECTED_OUTPUT_TOKENS
from router.objective import Rules
from router.ranking import rank
from router.request import ChatRequest
from router.routing import Routing
from router.validation import ParsedRequest

if TYPE_CHECKING:
    from router.core import Core

__all__ = ["choose", "decide", "explore", "rules_of", "situation_of"]

#: A model with fewer answers than this is "little known of": exploration may pick it.
KNOWN_AFTER = 20


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
    return decide(core, parsed.request, parsed.options, rules, _features(parsed, rules))


def decide(
    core: Core, request: ChatRequest, options: RoutingOptions, rules: Rules, features: Features
) -> Routing:
    """Ranks the models for a request whose features were read.

    Raises:
        NoEligibleModelError: as `choose`.
        AllModelsFailedError: as `choose`.
    """
    fleet, now = core.fleet, core.now()
    ranked = rank(fleet, features, rules, situation_of(core, fleet, features))
    routing = Routing(
        id=uuid.uuid4().hex,
        at=core.wall(),
        request=request,
        options=options,
        fleet=fleet,
        features=features,
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


def _features(parsed: ParsedRequest, rules: Rules) -> Features:
    request, options = parsed.request, parsed.options
    return Features(
        prompt_tokens=_prompt_tokens(request),
        expected_output_tokens=min(EXPECTED_OUTPUT_TOKENS, request.max_tokens or EXPECTED_OUTPUT_TOKENS),
        max_output_tokens=request.max_tokens,
        needs=needs_of(request),
        task=options.task,
        language=options.language,
        sensitivity="private" if rules.private else "any",
        session=options.session,
        stream=request.stream,
        choices=request.choices,
    )


def situation_of(core: Core, fleet: Fleet, features: Features) -> Situation:
    """How things stand right now: waits, breakers, money."""
    now = core.now()
    waits: dict[int, float] = {}
    for place in fleet.asked:
        wait = _local_wait(fleet, place)
        if wait:
            waits[place] = wait
    for name, limiter in core.limiters.items():
        if name in fleet.place:
            limited = fleet.place[name]
            tokens = features.prompt_tokens + features.expected_output_tokens
            wait = limiter.wait(tokens, now, fleet.learned.service[limited])
            if wait:
                waits[limited] = waits.get(limited, 0.0) + wait
    shut = {fleet.place[name]: why for name, why in core.health.shut(now).items() if name in fleet.place}
    return Situation(waits=waits, shut=shut, budget_left=_budget_left(core, fleet, features.task))


def _local_wait(fleet: Fleet, place: int) -> float:
    """Seconds until a model in this process begins: its loading and the requests before this one."""
    adapter = fleet.loaded_adapter(place)
    speed = fleet.profiles[place].speed
    if adapter is None:
        return speed.load
    load = adapter.load()
    wait = 0.0 if load.resident else speed.load
    return wait + (load.running + load.waiting) * fleet.learned.service[place]


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
    """Now and then puts an eligible model that little is known of first. Breaks no constraint."""
    policy = core.config.policy
    share = policy.explore if policy.rank_by == "objective" else 0.0
    if not share or len(routing.order) < 2 or core.random.random() >= share:  # noqa: PLR2004 - a choice
        return
    samples = routing.fleet.learned.samples
    on_time = [place for place in routing.order if place not in routing.ranked.late] or routing.order
    place = min(on_time, key=lambda place: samples[place])
    if samples[place] < KNOWN_AFTER and place != routing.order[0]:
        routing.ranked.order.remove(place)
        routing.ranked.order.insert(0, place)
        routing.notes = (*routing.notes, "explored: little is known of this model yet")


def _prompt_tokens(request: ChatRequest) -> int:
    from router.tokens import count_request

    tools = request.params.get("tools")
    return count_request(
        request.messages,
        tools if isinstance(tools, list) else None,
        response_format=request.params.get("response_format"),
    ).total


def _no_such_model(field_name: str, name: str, fleet: Fleet) -> InvalidRequestError:
    return InvalidRequestError(
        f"{field_name} = {name!r}: no such model{nearest(name, fleet.names)}",
        field=field_name,
        value=repr(name),
    )
