"""What somebody can do about a rejection: one sentence for each stable code that has a way out."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["remedies"]

_CONSTRAINT = 'loosen the constraint, or build the policy with on_infeasible="relax"'
_REMEDIES = {
    "budget": "wait for the budget's next period, raise it, or allow a cheaper model",
    "capability": "add a model that can do it, or declare it in the model's capabilities",
    "context": "shorten the prompt, or add a model with a larger context window",
    "credentials": "set the variable, or give the model api_key or api_key_env",
    "ledger": "make the ledger's file writable again: without it, what a budget covers is not sent",
    "language": "add the language to the model's languages, or leave it out of the request",
    "max_cost": _CONSTRAINT,
    "max_latency": _CONSTRAINT,
    "max_output": "lower max_tokens",
    "max_ttft": _CONSTRAINT,
    "min_quality": _CONSTRAINT,
    "price": "declare price=Price(input=..., output=...), zeros if it is free, or ask for the model by name",
    "queue": "try again in a moment, or add a model",
    "shared": "see that the Redis server runs and its URL and password are right; it is used again by itself",
    "privacy": "add a local model, or declare private=True on a host that is your own machine",
}


def remedies(reasons: Iterable[str]) -> list[str]:
    """What to do about these reasons, each remedy once, with the codes that it is for."""
    codes: dict[str, list[str]] = {}
    for code in dict.fromkeys(reason.partition(":")[0] for reason in reasons):
        if code in _REMEDIES:
            codes.setdefault(_REMEDIES[code], []).append(code)
    return [f"{', '.join(names)}: {remedy}" for remedy, names in codes.items()]
