"""From a checked request to a ranking: reads the features and the situation, ranks, and says why nobody may.

Everything here is pure but for what it is given to read: the clock, the ledger's last word on budgets, and
how busy the adapters are.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from router.decision import Features
from router.errors import (
    AllModelsFailedError,
    BudgetExceededError,
    InvalidRequestError,
    NoEligibleModelError,
    OverloadedError,
    RouterClosedError,
    RouterError,
    nearest,
)
from router.features import needs_of
from router.fleet import Fleet
from router.objective import Rules
from router.options import RoutingOptions
from router.policy import Policy
from router.ranking import rank
from router.request import ChatRequest
from router.routing import Routing
from router.situations import situation_of
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
        OverloadedError: if all that may are busy, and their queues are full.
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
        OverloadedError: as `choose`.
    """
    fleet, now = core.fleet, core.now()
    ranked = rank(
        fleet,
        features,
        rules,
        situation_of(core, fleet, features, prompt, deadline=options.deadline),
    )
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


def _nobody(core: Core, routing: Routing) -> RouterError:
    """The error for a request that no model may take."""
    reasons = routing.ranked.rejections()
    error = _overloaded(routing, reasons) or _failing(core, reasons)
    if error is not None:
        error.decision = routing.decision(model=None)
        return error
    decision = routing.decision(model=None)
    if any(reason.startswith("budget:") for reason in reasons.values()):
        now = core.ledger.standings
        what = f"the budget has no room for this request ({now.in_words(routing.features.task)})"
        ends_at = now.ends_at(routing.features.task)
        return BudgetExceededError(what, reasons=reasons, decision=decision, ends_at=ends_at)
    return NoEligibleModelError("no model is eligible for this request", reasons=reasons, decision=decision)


def _overloaded(routing: Routing, reasons: Mapping[str, str]) -> OverloadedError | None:
    """The error if some model would have room for the request a little later."""
    full = [name for name, reason in reasons.items() if reason.startswith("queue:")]
    if not full:
        return None
    place, room = routing.fleet.place, routing.ranked.now.full
    after = min(room[place[name]] for name in full)
    return OverloadedError(
        f"the queue of every model that may answer is full ({', '.join(full)}); there may be room in "
        f"{after:.1f} s",
        retry_after=after,
    )


def _failing(core: Core, reasons: Mapping[str, str]) -> AllModelsFailedError | None:
    """The error if models that could answer are left alone since they fail."""
    shut = [name for name, reason in reasons.items() if reason.startswith("health:")]
    causes = [error for name in shut if (error := core.health.last_error(name)) is not None]
    if not causes:
        return None
    return AllModelsFailedError(causes, note="every eligible model is failing and left alone for now")


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
