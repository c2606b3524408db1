"""Forecasts of answers' lengths: near the best that the samples allow, and never led astray."""

from __future__ import annotations

import math
import random
from statistics import fmean, pvariance

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.learning.lengths import EXPECTED_OUTPUT_TOKENS, PRIOR_SPREAD, Forecast, Lengths
from router.learning.lognormal import capped

PRIOR = Forecast(EXPECTED_OUTPUT_TOKENS, PRIOR_SPREAD)


def drawn(chance: random.Random, mean: float, spread: float) -> float:
    """The length of an answer: log-normal, whole, at least 1."""
    return float(max(1, round(mean * math.exp(spread * chance.gauss() - 0.5 * spread * spread))))


def add(held: Lengths, tokens: float, *, prompt: float = 500.0, limit: float | None = None) -> None:
    """Takes one answer in, as a backend would have given it under the limit."""
    told = tokens if limit is None else min(tokens, limit)
    held.add(told, prompt, limit, held.forecast(PRIOR))


def learned(lengths: list[float], *, limit: float | None = None) -> Lengths:
    held = Lengths()
    for tokens in lengths:
        add(held, tokens, limit=limit)
    return held


class TestTheMean:
    def test_before_any_answer_the_prior_is_all_there_is(self) -> None:
        assert Lengths().forecast(PRIOR) == PRIOR

    @pytest.mark.parametrize("spread", [0.5, 1.0])
    def test_after_fifty_answers_it_errs_hardly_more_than_the_maximum_likelihood(self, spread: float) -> None:
        mean, ours, best = 250.0, [], []
        for seed in range(100):
            chance = random.Random(seed)
            sample = [drawn(chance, mean, spread) for _ in range(50)]
            logs = [math.log(tokens) for tokens in sample]
            best.append(math.exp(fmean(logs) + 0.5 * pvariance(logs)) / mean - 1)
            ours.append(learned(sample).forecast(PRIOR).mean / mean - 1)
        assert fmean(map(abs, ours)) <= 1.15 * fmean(map(abs, best))
        assert abs(fmean(ours)) <= 0.03

    @pytest.mark.parametrize(
        "lengths",
        [[10.0, 10.0, 10.0, 1000.0], [1.0, 500.0], [50.0, 100.0, 150.0]],
        ids=["seldom long", "yes or an essay", "even"],
    )
    def test_it_is_right_for_lengths_that_are_nothing_like_log_normal(self, lengths: list[float]) -> None:
        found = []
        for seed in range(30):
            chance = random.Random(seed)
            found.append(learned([chance.choice(lengths) for _ in range(200)]).forecast(PRIOR).mean)
        assert fmean(found) == pytest.approx(fmean(lengths), rel=0.1)

    def test_answers_of_one_length_are_forecast_at_that_length_with_little_spread(self) -> None:
        found = learned([320.0] * 60).forecast(PRIOR)
        assert found.mean == pytest.approx(320, rel=0.01)
        assert 0.0 < found.spread < 0.1

    def test_the_spread_is_that_of_the_answers(self) -> None:
        chance = random.Random(5)
        found = learned([drawn(chance, 300, 0.8) for _ in range(200)]).forecast(PRIOR)
        assert found.spread == pytest.approx(0.8, rel=0.2)

    def test_a_change_of_length_is_followed(self) -> None:
        found = learned([100.0] * 300 + [800.0] * 200).forecast(PRIOR)
        assert found.mean == pytest.approx(800, rel=0.2)

    def test_one_absurd_length_among_many_moves_the_mean_by_a_bounded_factor(self) -> None:
        held = learned([100.0] * 50)
        add(held, 1e9)
        assert 100 <= held.forecast(PRIOR).mean <= 150


class TestCutOff:
    def test_answers_that_the_limit_cut_off_are_not_taken_for_short_ones(self) -> None:
        found = []
        for seed in range(30):
            chance = random.Random(seed)
            found.append(learned([drawn(chance, 300, 0.7) for _ in range(80)], limit=250.0).forecast(PRIOR))
        assert fmean(one.mean for one in found) == pytest.approx(300, rel=0.15)
        assert fmean(one.spread for one in found) == pytest.approx(0.7, rel=0.2)

    @pytest.mark.parametrize("limit", [100.0, 250.0, 600.0])
    def test_what_is_expected_under_the_limit_is_right(self, limit: float) -> None:
        found = []
        for seed in range(30):
            chance = random.Random(seed)
            one = learned([drawn(chance, 300, 0.7) for _ in range(80)], limit=limit).forecast(PRIOR)
            found.append(capped(one.mean, one.spread, limit))
        assert fmean(found) == pytest.approx(capped(300, 0.7, limit), rel=0.05)

    @pytest.mark.parametrize("limit", [1.0, 4.0, 16.0])
    def test_a_low_limit_that_cuts_every_answer_off_says_nothing_against_long_ones(
        self, limit: float
    ) -> None:
        found = learned([400.0] * 60, limit=limit).forecast(PRIOR)
        assert found.mean >= 0.99 * EXPECTED_OUTPUT_TOKENS
        assert capped(found.mean, found.spread, limit) == pytest.approx(limit, rel=0.05)

    def test_nothing_but_cut_off_answers_raises_the_forecast_to_a_bounded_length(self) -> None:
        found = learned([1e6] * 2000, limit=1000.0).forecast(PRIOR)
        assert 1000 < found.mean < 1e5
        assert math.isfinite(found.spread)

    def test_an_answer_that_ended_just_below_its_limit_counts_as_it_is(self) -> None:
        held = Lengths()
        for _ in range(60):
            held.add(99.0, 500.0, 100.0, held.forecast(PRIOR))
        assert held.forecast(PRIOR).mean == pytest.approx(99, rel=0.01)


class TestThePrompt:
    def test_a_task_whose_answers_grow_with_its_prompts_is_learned(self) -> None:
        chance, held = random.Random(2), Lengths()
        for _ in range(80):
            prompt = chance.lognormvariate(6.5, 0.8)
            add(held, 0.5 * prompt * math.exp(0.2 * chance.gauss()), prompt=prompt)
        found = held.forecast(PRIOR)
        for prompt in (300.0, 700.0, 2000.0):
            assert found.at(prompt) == pytest.approx(0.5 * prompt, rel=0.15)
        assert found.spread == pytest.approx(0.2, rel=0.3), "what the prompt explains is no chance"

    def test_answers_that_do_not_depend_on_the_prompt_are_hardly_ever_given_a_slope(self) -> None:
        sloped = 0
        for seed in range(100):
            chance, held = random.Random(seed), Lengths()
            for _ in range(60):
                add(held, drawn(chance, 250, 0.7), prompt=chance.lognormvariate(6.5, 0.8))
            sloped += bool(held.forecast(PRIOR).slope)
        assert sloped <= 10

    def test_one_prompt_length_gives_no_slope(self) -> None:
        chance = random.Random(1)
        assert learned([drawn(chance, 250, 1.0) for _ in range(60)]).forecast(PRIOR).slope == 0.0

    def test_the_line_is_not_drawn_far_beyond_what_was_seen(self) -> None:
        chance, held = random.Random(2), Lengths()
        for _ in range(80):
            prompt = chance.uniform(400, 600)
            add(held, 0.5 * prompt, prompt=prompt)
        found = held.forecast(PRIOR)
        assert found.slope > 0
        assert found.at(1e7) == found.at(1e6) < 500
        assert found.at(0.0) == found.at(1.0) > 100

    def test_a_slope_goes_when_the_lengths_no_longer_follow(self) -> None:
        chance, held = random.Random(4), Lengths()
        for turn in range(600):
            prompt = chance.lognormvariate(6.5, 0.8)
            add(held, 0.5 * prompt if turn < 60 else drawn(chance, 250, 0.5), prompt=prompt)
        found = held.forecast(PRIOR)
        assert found.at(3000.0) / found.at(300.0) == pytest.approx(1.0, abs=0.5)


class TestWhateverComes:
    @settings(max_examples=100)
    @given(
        st.lists(
            st.tuples(
                st.floats(1.0, 1e12),
                st.floats(0.0, 1e12),
                st.none() | st.sampled_from([1.0, 16.0, 1e4, 1e12]),
            ),
            max_size=60,
        )
    )
    def test_a_forecast_is_finite_positive_and_within_reason(
        self, answers: list[tuple[float, float, float | None]]
    ) -> None:
        held = Lengths()
        for tokens, prompt, limit in answers:
            add(held, tokens, prompt=prompt, limit=limit)
            found = held.forecast(PRIOR)
            assert 0.0 <= found.spread < 40.0
            for asked in (0.0, 500.0, 1e12):
                assert 0.0 < found.at(asked) < 1e16
        assert held.count == len(answers)

    def test_a_million_answers_change_nothing_about_the_memory_that_is_kept(self) -> None:
        held = learned([300.0] * 5000)
        held.count = 10**6  # the weight of the prior underflows, and nothing is divided by it
        assert held.forecast(PRIOR).mean == pytest.approx(300, rel=0.01)
        assert held.weight < 200
