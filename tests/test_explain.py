"""A decision as people read it: nothing that mattered is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from router import (
    Attempt,
    Budget,
    Decision,
    Model,
    ModelConnectionError,
    NoEligibleModelError,
    Policy,
    Price,
    Router,
)
from router.testing import ScriptedModel

HELLO: Any = [{"role": "user", "content": "hi"}]
MODELS = [
    ScriptedModel("small", price=Price(input=0.1, output=0.3), quality=0.7),
    ScriptedModel(
        "large",
        price=Price(input=10, output=30),
        quality=0.95,
        context_window=1000,
        capabilities=frozenset({"seed"}),
    ),
    ScriptedModel("poor", quality=0.1),
    ScriptedModel("unpriced", price=None, quality=0.9),
]
POLICY = Policy(min_quality=0.5)


def decide(models: Sequence[Model] = MODELS, policy: Policy = POLICY, **request: Any) -> Decision:
    with Router(models, policy=policy) as router:
        return router.route(**{"messages": HELLO, **request})


def test_it_names_the_choice_every_model_and_every_rejection() -> None:
    decision = decide()
    text = decision.explain()
    assert text.splitlines()[0].startswith("small: lowest cost + 0.001 USD/s × latency, among 2")
    for candidate in decision.ranking:
        assert candidate.model in text
        if candidate.rejected_because is not None:
            assert f"{candidate.model} " in text
            assert candidate.rejected_because in text


def test_it_lists_the_candidates_best_first() -> None:
    lines = decide().explain().splitlines()
    assert lines.index(next(line for line in lines if line.strip().startswith("small "))) < lines.index(
        next(line for line in lines if line.strip().startswith("large "))
    )


def test_it_says_what_the_request_needs_and_what_was_assumed() -> None:
    text = decide(
        seed=1, max_tokens=9, routing={"task": "support", "language": "ja", "deadline": 0.1}
    ).explain()
    for said in ("task support", "at most 9 tokens out", "needs seed", "language ja", "expected to be late"):
        assert said in text
    assert "context window: unknown (small)" in text
    assert "private" in decide([ScriptedModel("p", private=True)], Policy(privacy="private")).explain()


def test_it_says_what_was_given_up() -> None:
    text = decide([MODELS[2]], Policy(min_quality=0.5, on_infeasible="relax")).explain()
    assert "relaxed: min_quality" in text


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Policy(), "lowest cost"),
        (Policy.cheapest(), "lowest expected cost"),
        (Policy.fastest(), "lowest expected latency"),
        (Policy.best(), "highest expected quality"),
        (Policy(utility=lambda candidate: 0.0), "the policy's own function"),
    ],
)
def test_it_says_by_what_the_choice_was_made(policy: Policy, said: str) -> None:
    assert said in decide(MODELS, policy).explain().splitlines()[0]
    assert "the request names this model" in decide(MODELS, policy, model="large").explain()
    assert decide([MODELS[0]], policy).reason == "the only model"


def test_it_explains_a_refusal_too() -> None:
    with pytest.raises(NoEligibleModelError) as caught:
        decide(policy=Policy(min_quality=0.99))
    assert caught.value.decision is not None
    text = caught.value.decision.explain()
    assert text.startswith("no model: none of 4 models is eligible")
    assert "min_quality: 0.95 < 0.99" in text
    assert "min_quality: 0.95 < 0.99" in str(caught.value)


def test_it_says_how_much_money_is_left() -> None:
    dear = ScriptedModel("x", price=Price(input=0, output=1e6))
    no_money = pytest.raises(NoEligibleModelError, match="budget: 150 > 2 USD left")
    with Router([dear], budget=Budget(usd=2)) as router, no_money:
        router.route(messages=HELLO)


def test_it_tells_the_attempts_their_errors_and_what_they_cost() -> None:
    error = ModelConnectionError("no route to host", model="small")
    attempts = (
        Attempt(model="small", outcome="failed", duration=0.25, error=error),
        Attempt(
            model="large", outcome="succeeded", duration=1.5, ttft=0.4, cost=Decimal("0.0123"), cost_source="usage",
            prompt_tokens=12, completion_tokens=34,
        ),
    )  # fmt: skip
    decided = dataclasses.replace(decide(), model="large", attempts=attempts, cost=Decimal("0.0123"))
    text = decided.explain()
    assert "small  failed after 250 ms, ModelConnectionError: no route to host" in text
    assert "large  succeeded in 1.50 s, first token after 400 ms, 12 tokens in, 34 out, 0.0123 USD" in text
    assert text.endswith("cost: 0.0123 USD")
    assert dataclasses.replace(decided, cost=None).explain().endswith("cost: unknown")


@pytest.mark.parametrize(
    ("usd", "shown"),
    [(0, "0 USD"), (0.00000123, "0.00000123 USD"), (0.0456, "0.0456 USD"), (12.345, "12.35 USD")],
)
def test_money_is_shown_with_digits_that_count(usd: float, shown: str) -> None:
    text = decide([ScriptedModel("m", price=Price(input=0, output=0, per_request=usd))], Policy()).explain()
    assert f" {shown} " in text


def test_columns_stand_under_each_other() -> None:
    rows = [line for line in decide().explain().splitlines() if line.startswith("    ")][:3]
    head, *figures = rows
    end = head.index("quality") + len("quality")
    assert [row[end - 4 : end] for row in figures] == ["0.70", "0.95"]


def test_terms_of_the_objective_that_weigh_nothing_are_left_out() -> None:
    assert decide(MODELS, Policy(value_of_time=0)).reason == "lowest cost, among 3 eligible of 4"
    weighed = decide(MODELS, Policy(value_of_time=0.002, value_of_quality=0.5)).reason
    assert weighed.startswith("lowest cost + 0.002 USD/s × latency − 0.5 USD × quality, among")


def test_it_says_whom_the_answering_model_took_over_from() -> None:
    down = ScriptedModel("down", quality=0.9, script=(ModelConnectionError,))
    with Router([down, MODELS[0]], policy=Policy(explore=0)) as router:
        decision = router.chat.completions.create(messages=HELLO).routing
    assert decision.explain().startswith("small: took over from down, which was first: lowest cost")


def test_it_marks_a_hedge() -> None:
    hedge = Attempt(model="large", outcome="running", duration=None, hedge=True)
    assert "large  running (a hedge)" in dataclasses.replace(decide(), attempts=(hedge,)).explain()


def test_models_that_the_request_left_out_share_a_line() -> None:
    many = [ScriptedModel(f"m{number}") for number in range(20)]
    text = decide(many, Policy(), model="m0").explain()
    assert "m1, m2, m3, m4, m5, m6, m7, m8 and 11 more  pinned: the request asks for m0" in text
    assert text.count("pinned:") == 1


def test_a_refusal_says_what_helps() -> None:
    for policy, said in (
        (Policy(min_quality=0.99), 'on_infeasible="relax"'),
        (Policy(privacy="private"), "private=True"),
    ):
        with pytest.raises(NoEligibleModelError) as caught:
            decide(policy=policy)
        assert caught.value.decision is not None
        assert said in str(caught.value)
        assert said in caught.value.decision.explain()
    assert "what helps" not in decide().explain()


def test_large_and_small_limits_are_shown_in_plain_digits() -> None:
    small = ScriptedModel("x", price=Price(input=0, output=0, per_request=0.00002), quality=0.5)
    with pytest.raises(NoEligibleModelError, match=r"max_cost: 0\.00002 > 0\.00001 USD"):
        decide([small], Policy(max_cost=0.00001))
    with pytest.raises(NoEligibleModelError, match=r"max_output: 3000000 > 2000000 tokens"):
        decide([ScriptedModel("x", max_output=2_000_000)], max_tokens=3_000_000)


def test_a_decision_is_a_frozen_snapshot() -> None:
    decision = decide()
    with pytest.raises(dataclasses.FrozenInstanceError):
        decision.model = "other"  # type: ignore[misc]  # that is the point
    assert decision.ranking is decision.ranking
