"""What ranking reads of what was learned: every model in its place, steady, and nothing half-made."""

from __future__ import annotations

import copy
import math
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.learning import EXPECTED_OUTPUT_TOKENS, Columns, Sample
from router.learning.forecasts import FOLLOW_AFTER, MOST_TASKS
from router.learning.lognormal import sum_quantile
from router.learning.pace import FADING, LONG_LIFETIME, STALE_AFTER, Z95
from router.learning.spells import FAILURE_LIFETIME
from router.profile import Profile, Speed

PRIOR = Speed(ttft=0.5, prefill=1000.0, decode=50.0)


def columns(models: int = 1, *, local: bool = False) -> Columns:
    return Columns([Profile(speed=PRIOR, local=local)] * models)


def sample(
    *,
    task: str | None = None,
    counted: int = 1000,
    prompt: int | None = 1000,
    completion: int | None = 100,
    ttft: float | None = None,
    duration: float = 3.5,
    cached: int = 0,
    max_tokens: int | None = None,
    choices: int = 1,
    beside: float = 0.0,
    at: float = 0.0,
) -> Sample:
    return Sample(
        task=task,
        counted_tokens=counted,
        prompt_tokens=prompt,
        completion_tokens=completion,
        ttft=ttft,
        duration=duration,
        cached_tokens=cached,
        max_tokens=max_tokens,
        choices=choices,
        beside=beside,
        at=at,
    )


def first_token(learned: Columns, tokens_in: float, place: int = 0) -> float:
    return learned.base[place] + tokens_in * learned.per_in[place]


def prompt_tokens(learned: Columns, counted: int) -> float:
    return learned.frame[0] + counted * learned.ratio[0]


def latency(learned: Columns, tokens_in: float = 1000, tokens_out: float = 100, place: int = 0) -> float:
    return first_token(learned, tokens_in, place) + tokens_out * learned.per_out[place]


def length(learned: Columns, task: str | None, place: int = 0, *, prompt: float = 1000) -> float:
    return learned.forecast(place, task, prompt, None)[0]


def answers(learned: Columns, task: str | None, tokens: float, *, place: int = 0, count: int = 30) -> None:
    """So many answers around a length, reproducibly."""
    chance = random.Random(f"{task} {tokens} {place}")
    for _ in range(count):
        completion = max(1, round(tokens * math.exp(0.3 * chance.gauss() - 0.045)))
        learned.learn(place, sample(task=task, completion=completion, duration=1.5 + completion / 50))


class TestAtFirst:
    def test_a_model_never_seen_has_its_profiles_speed_and_the_assumed_length(self) -> None:
        learned = columns()
        assert first_token(learned, 1000) == pytest.approx(1.5)
        assert latency(learned) == pytest.approx(3.5)
        assert learned.samples == [0]
        assert learned.forecast(0, "anything", 1000, None) == (EXPECTED_OUTPUT_TOKENS, 0.0)
        assert learned.forecasts.expected("anything") == EXPECTED_OUTPUT_TOKENS

    def test_an_answer_just_as_expected_moves_no_speed(self) -> None:
        learned = columns()
        learned.learn(0, sample(duration=3.5, ttft=1.5))
        assert latency(learned) == pytest.approx(3.5)
        assert first_token(learned, 1000) == pytest.approx(1.5)
        assert learned.samples == [1]

    def test_one_model_does_not_touch_anothers_speed(self) -> None:
        learned = columns(2)
        for _ in range(20):
            learned.learn(0, sample(duration=60.0, prompt=2000))
        assert (learned.ratio[1], learned.base[1], learned.per_out[1]) == (1.0, 0.5, 0.02)
        assert learned.samples == [20, 0]


class TestTokens:
    def test_thirty_answers_are_enough_to_know_the_ratio(self) -> None:
        learned = columns()
        for _ in range(30):
            learned.learn(0, sample(counted=1000, prompt=1300))
        assert prompt_tokens(learned, 1000) == pytest.approx(1300, rel=0.02)

    def test_the_frame_of_short_prompts_is_not_taken_for_a_ratio_of_long_ones(self) -> None:
        learned = columns()
        for _ in range(50):
            learned.learn(0, sample(counted=15, prompt=35))
        assert prompt_tokens(learned, 15) == pytest.approx(35, rel=0.02)
        assert prompt_tokens(learned, 1000) < 1250, "a prompt that fits must not be shut out"

    def test_long_prompts_tell_the_ratio_whatever_short_ones_said(self) -> None:
        learned = columns()
        for _ in range(50):
            learned.learn(0, sample(counted=15, prompt=35))
            learned.learn(0, sample(counted=4000, prompt=5220))
        assert prompt_tokens(learned, 8000) == pytest.approx(8000 * 1.3 + 20, rel=0.05)
        assert prompt_tokens(learned, 15) == pytest.approx(35, rel=0.5)

    def test_a_backend_that_reports_no_usage_is_measured_by_our_own_count(self) -> None:
        learned = columns()
        for _ in range(30):
            learned.learn(0, sample(counted=1000, prompt=2000, completion=150, ttft=2.5, duration=5.5))
        before = first_token(learned, 2000)
        for _ in range(30):
            learned.learn(0, sample(counted=1000, prompt=None, completion=None, ttft=2.5, duration=5.5))
        counted = prompt_tokens(learned, 1000)
        assert first_token(learned, counted) == pytest.approx(before, rel=0.05)
        assert counted == pytest.approx(2000, rel=0.05), "nothing was said against it"

    def test_one_absurd_report_of_tokens_does_not_price_a_model_out(self) -> None:
        learned = columns()
        for _ in range(20):
            learned.learn(0, sample(completion=100))
        learned.learn(0, sample(counted=10, prompt=40_000_000, completion=40_000_000))
        assert prompt_tokens(learned, 1000) < 1500
        assert length(learned, None) < 200

    def test_cached_tokens_are_not_taken_for_fast_reading(self) -> None:
        learned, cold = columns(), columns()
        chance = random.Random(1)
        for turn in range(60):
            prompt = chance.randint(500, 8000)
            cached = round(0.9 * prompt) if turn % 2 else 0
            seconds = 0.5 + (prompt - cached) / 1000
            learned.learn(
                0, sample(prompt=prompt, counted=prompt, cached=cached, ttft=seconds, duration=seconds + 2)
            )
        assert first_token(learned, 4000) == pytest.approx(first_token(cold, 4000), rel=0.05)


class TestLengths:
    def test_each_task_has_its_own_lengths(self) -> None:
        learned = columns()
        answers(learned, "code", 1000)
        answers(learned, "intent", 5)
        answers(learned, None, 200)
        assert length(learned, "code") == pytest.approx(1000, rel=0.15)
        assert length(learned, "intent") == pytest.approx(5, rel=0.25)
        assert length(learned, None) == pytest.approx(200, rel=0.15)

    def test_a_new_task_starts_from_what_all_tasks_showed(self) -> None:
        learned = columns(2)
        answers(learned, "code", 1000, count=64)
        assert learned.forecasts.expected("new") == pytest.approx(1000, rel=0.2)
        for place in (0, 1):
            assert length(learned, "new", place) == pytest.approx(1000, rel=0.2)

    def test_a_new_task_does_not_take_the_nameless_one_for_all(self) -> None:
        learned = columns()
        answers(learned, None, 20, count=10)
        answers(learned, "code", 1000, count=200)
        assert length(learned, "new") > 500
        assert length(learned, None) == pytest.approx(20, rel=0.3)

    def test_a_models_first_answer_to_a_new_task_makes_no_jump(self) -> None:
        learned = columns()
        answers(learned, "code", 1000, count=64)
        before = length(learned, "new")
        learned.learn(0, sample(task="new", completion=round(before)))
        assert length(learned, "new") == pytest.approx(before, rel=0.1)

    def test_a_new_model_starts_from_the_others_lengths_at_a_task(self) -> None:
        learned = columns(3)
        answers(learned, "code", 1000, count=64)
        answers(learned, "intent", 5, count=64)
        assert length(learned, "code", 2) == pytest.approx(1000, rel=0.2)
        assert length(learned, "intent", 2) == pytest.approx(5, rel=0.5)

    def test_a_model_without_answers_follows_the_others_when_their_lengths_change(self) -> None:
        learned = columns(2)
        answers(learned, "code", 1000, count=520)
        answers(learned, "code", 100, count=2 * FOLLOW_AFTER + 150)
        assert length(learned, "code", 1) == pytest.approx(length(learned, "code", 0), rel=0.5)
        assert length(learned, "code", 1) < 300

    def test_a_talkative_model_is_expected_to_be_so_at_tasks_that_it_never_saw(self) -> None:
        learned = columns(2)
        for _ in range(40):
            answers(learned, "chat", 200, place=0, count=1)
            answers(learned, "chat", 600, place=1, count=1)
        answers(learned, "code", 1000, place=0, count=64)
        assert length(learned, "code", 1) > 1.7 * length(learned, "code", 0)
        assert length(learned, "never seen", 1) > 1.7 * length(learned, "never seen", 0)

    def test_choices_share_the_completion_tokens(self) -> None:
        learned = columns()
        for _ in range(40):
            learned.learn(0, sample(completion=1200, choices=4))
        assert length(learned, None) == pytest.approx(300, rel=0.05)

    def test_choices_that_this_machine_gives_in_turns_tell_nothing_of_one_answers_pace(self) -> None:
        learned = columns(local=True)
        for _ in range(20):
            learned.learn(0, sample())
        alone = first_token(learned, 1000), learned.per_out[0], learned.service[0]
        many = sample(completion=6400, choices=64, duration=200.0)
        for _ in range(4):
            learned.learn(0, many)
            learned.took_longer(0, many)
        assert (first_token(learned, 1000), learned.per_out[0], learned.service[0]) == alone
        assert learned.factor(0, many) is None
        assert length(learned, None) == pytest.approx(100, rel=0.2)

    def test_what_a_model_thinks_counts_as_output(self) -> None:
        learned = columns()
        for _ in range(40):  # 50 visible tokens, and 2,000 of reasoning among the completion tokens
            learned.learn(0, sample(completion=2050, max_tokens=16_000))
        assert length(learned, None) == pytest.approx(2050, rel=0.05)

    def test_a_forecast_under_a_limit_is_no_longer_than_the_limit(self) -> None:
        learned = columns()
        answers(learned, "code", 1000)
        mean, spread = learned.forecast(0, "code", 1000, None)
        cut, cut_spread = learned.forecast(0, "code", 1000, 300)
        assert cut < 300 < mean
        assert cut_spread < spread

    def test_cut_off_answers_do_not_drag_a_forecast_down(self) -> None:
        learned = columns(2)
        for _ in range(60):
            learned.learn(0, sample(task="code", completion=64, max_tokens=64))
        assert length(learned, "code") > EXPECTED_OUTPUT_TOKENS * 0.9
        assert length(learned, "code", 1) > 64, "nor that of others"

    def test_answers_that_follow_their_prompts_are_forecast_by_the_prompt(self) -> None:
        learned, chance = columns(), random.Random(3)
        for _ in range(100):
            prompt = round(chance.lognormvariate(6.5, 0.8))
            out = max(1, round(0.5 * prompt * math.exp(0.2 * chance.gauss())))
            learned.learn(0, sample(task="translate", prompt=prompt, counted=prompt, completion=out))
        assert length(learned, "translate", prompt=400) == pytest.approx(200, rel=0.2)
        assert length(learned, "translate", prompt=2000) == pytest.approx(1000, rel=0.2)

    def test_tasks_without_end_do_not_fill_the_memory(self) -> None:
        learned = columns()
        for place in range(3 * MOST_TASKS):
            learned.learn(0, sample(task=f"task {place}"))
        assert len(learned.forecasts._tasks) == MOST_TASKS

    def test_a_task_for_which_there_is_no_room_is_forecast_as_the_nameless_one(self) -> None:
        learned = columns()
        for place in range(MOST_TASKS):
            learned.learn(0, sample(task=f"task {place}", completion=10))
        answers(learned, "one too many", 2000, count=100)
        assert length(learned, "one too many") == length(learned, None) > 1000
        assert length(learned, "task 7") < 100


class TestTimes:
    @pytest.mark.parametrize("factor", [0.2, 0.5, 2.0, 5.0])
    @pytest.mark.parametrize("streamed", [True, False], ids=["streams", "in one piece"])
    def test_thirty_answers_are_enough_to_know_a_speed(self, factor: float, streamed: bool) -> None:
        learned = columns()
        for _ in range(30):
            learned.learn(0, sample(ttft=1.5 * factor if streamed else None, duration=3.5 * factor))
        assert latency(learned) == pytest.approx(3.5 * factor, rel=0.1)
        if streamed:
            assert first_token(learned, 1000) == pytest.approx(1.5 * factor, rel=0.1)

    def test_an_empty_answer_does_not_make_a_model_look_fast(self) -> None:
        learned = columns()
        for _ in range(20):
            learned.learn(0, sample(completion=0, ttft=1.5, duration=1.5))
        assert latency(learned) > 2.5

    def test_quantiles_hold_for_answers_whose_length_is_not_known_before(self) -> None:
        kept = judged = 0
        for seed in range(20):
            chance, learned = random.Random(seed), columns()
            for turn in range(130):
                mean, scatter = learned.forecast(0, "chat", 1000, None)
                most = sum_quantile(
                    ((first_token(learned, 1000), 0.0), (mean * learned.per_out[0], scatter)),
                    learned.spread[0],
                    Z95 * learned.tail[0],
                )
                out = max(1, round(chance.lognormvariate(5, 0.7)))
                factor = math.exp(0.2 * chance.gauss())
                seconds = factor * (1.0 + out / 60)
                if turn >= 30:
                    judged += 1
                    kept += seconds <= most
                learned.learn(0, sample(task="chat", completion=out, ttft=factor, duration=seconds, at=turn))
        assert 0.93 <= kept / judged <= 0.97

    def test_a_host_that_only_ever_succeeded_fades_when_nobody_asks_it(self) -> None:
        learned = columns()
        for turn in range(30):
            learned.learn(0, sample(ttft=7.5, duration=17.5, at=turn))
        slow = latency(learned)
        learned.refresh(30 + STALE_AFTER / 2)
        assert latency(learned) == slow
        learned.refresh(30 + STALE_AFTER + FADING)
        learned.refresh(30 + 10 * LONG_LIFETIME)
        assert latency(learned) == pytest.approx(3.5, rel=0.05), "as its profile says"

    def test_with_many_models_each_comes_round_to_fade(self) -> None:
        learned = columns(50)
        for place in range(50):
            for turn in range(10):
                learned.learn(place, sample(ttft=7.5, duration=17.5, at=turn))
        for _ in range(50):
            learned.refresh(10 * LONG_LIFETIME)
        assert [latency(learned, place=place) for place in range(50)] == pytest.approx([3.5] * 50, rel=0.05)

    def test_this_machines_own_models_do_not_fade(self) -> None:
        learned = columns(local=True)
        for turn in range(30):
            learned.learn(0, sample(ttft=7.5, duration=17.5, at=turn))
        slow = latency(learned)
        learned.refresh(10 * LONG_LIFETIME)
        assert latency(learned) == slow

    def test_a_place_is_looked_at_for_staleness_once(self) -> None:
        learned = columns(2)
        for turn in range(10):
            learned.failed(0, 1.0, turn)
            learned.learn(0, sample(at=turn))
            learned.took_longer(1, sample(duration=100.0 * (turn + 1), at=turn))
            learned.learn(1, sample(at=turn))
        assert sorted(learned._seen) == [0, 1]

    def test_doubt_is_a_profiles_until_there_are_answers(self) -> None:
        learned = columns(2)
        before = learned.doubt(0, 0.0)
        for turn in range(30):
            learned.learn(0, sample(at=turn))
        assert learned.doubt(0, 30.0) < 0.3 * before
        assert learned.doubt(1, 30.0) == before
        assert learned.doubt(0, 1000 * FADING) == pytest.approx(before)

    def test_a_load_that_was_measured_is_believed_at_once(self) -> None:
        learned = columns(local=True)
        learned.loaded(0, 8.0)
        assert learned.load == [8.0]
        learned.learn(0, sample())
        learned.loaded(0, 4.0)
        assert 4.0 < learned.load[0] < 8.0
        learned.loaded(0, -1e308)
        assert 0.0 <= learned.load[0] < 8.0


class TestLoad:
    def test_before_anything_was_seen_a_local_model_is_thought_to_share_its_cores(self) -> None:
        hosted, local = columns().slowdown(0, 8), columns(local=True).slowdown(0, 8)
        assert 1.0 < hosted[1] < 1.5 < local[1]
        assert columns(local=True).slowdown(0, 0) == (1.0, 1.0)

    def test_a_host_with_few_slots_is_told_from_a_slow_one(self) -> None:
        learned, chance = columns(), random.Random(1)
        for turn in range(600):
            beside = chance.randint(0, 15)
            slower = max(1.0, (beside + 1) / 4) * math.exp(0.1 * chance.gauss())
            learned.learn(0, sample(ttft=1.5 * slower, duration=3.5 * slower, beside=beside, at=turn))
        assert latency(learned) == pytest.approx(3.5, rel=0.15)
        first, whole = learned.slowdown(0, 12)
        assert first == pytest.approx(13 / 4, rel=0.25)
        assert whole == pytest.approx(13 / 4, rel=0.25)

    def test_what_load_does_to_the_first_token_may_differ_from_what_it_does_to_the_rest(self) -> None:
        learned, chance = columns(), random.Random(2)
        for turn in range(800):
            beside = chance.randint(0, 8)
            ttft = 1.5 * (1 + beside)  # prompts are read one after the other; writing is shared
            learned.learn(0, sample(ttft=ttft, duration=ttft + 20.0, completion=1000, beside=beside, at=turn))
        first, whole = learned.slowdown(0, 8)
        assert first > 3 * whole


class TestCompanyOnThisMachine:
    """Chats on one engine slow each other down; what each takes alone must be told from that."""

    @staticmethod
    def answer(company: float, chance: random.Random, at: float) -> Sample:
        """An answer of 100 tokens to a prompt of 1,000, by an engine whose steps grow with their rows."""
        scatter = math.exp(0.05 * chance.gauss())
        ttft = 1.5 * (1.0 + 0.1 * company) * scatter
        rest = 2.0 * (1.0 + 0.6 * company) * scatter
        return sample(ttft=ttft, duration=ttft + rest, beside=company, at=at)

    def learned(self, companies: Sequence[float], answers: int = 600) -> Columns:
        learned, chance = columns(local=True), random.Random(3)
        for turn in range(answers):
            learned.learn(0, self.answer(chance.choice(companies), chance, turn))
        return learned

    @pytest.mark.parametrize("companies", [(0.0, 3.0, 7.0), (0.0, 0.5, 1.0), (0.0, 1.5, 15.0)])
    def test_both_are_found(self, companies: Sequence[float]) -> None:
        learned = self.learned(companies)
        assert latency(learned) == pytest.approx(3.5, rel=0.1)
        for company in companies[1:]:
            first, rest = learned.slowdown(0, company)
            assert first == pytest.approx(1.0 + 0.1 * company, rel=0.15)
            assert rest == pytest.approx(1.0 + 0.6 * company, rel=0.15)

    def test_hours_under_load_do_not_change_what_it_takes_alone(self) -> None:
        learned, chance = self.learned((0.0, 7.0)), random.Random(4)
        alone = latency(learned)
        for turn in range(1000):
            learned.learn(0, self.answer(7.0, chance, 600 + turn))
        assert latency(learned) == pytest.approx(alone, rel=0.1)

    def test_answers_in_one_piece_tell_it_too(self) -> None:
        learned, chance = columns(local=True), random.Random(5)
        for turn in range(1500):
            company = chance.choice((0.0, 4.0))
            told = self.answer(company, chance, turn)
            learned.learn(0, sample(duration=told.duration, beside=company, at=turn))
        first, rest = learned.slowdown(0, 4.0)
        slowed = learned.base[0] + 1000 * learned.per_in[0]
        found = slowed * first + 100 * learned.per_out[0] * rest
        assert found == pytest.approx(1.5 * 1.4 + 2.0 * 3.4, rel=0.2)

    def test_before_the_first_token_company_counts_until_then(self) -> None:
        learned = columns(local=True)
        for turn in range(300):
            told = sample(ttft=1.5, duration=1.5 + 2.0 * 4.0, at=turn)
            learned.learn(0, replace(told, beside=7.0, beside_first=0.0))
        first, rest = learned.slowdown(0, 7.0)
        assert first_token(learned, 1000) == pytest.approx(1.5, rel=0.1)
        assert first < 2.0 < rest


class TestFailures:
    def test_failures_count_against_a_model(self) -> None:
        learned = columns(2)
        for turn in range(5):
            learned.failed(0, 10.0, turn)
        assert learned.failing[0] > 0.1
        assert learned.lost[0] > 1.0
        assert (learned.failing[1], learned.lost[1]) == (0.0, 0.0)

    def test_a_longer_failure_costs_more_and_answers_make_up_for_it(self) -> None:
        quick, slow = columns(), columns()
        for turn in range(5):
            quick.failed(0, 0.1, turn)
            slow.failed(0, 60.0, turn)
        assert quick.lost[0] < 0.1 * slow.lost[0]
        before = slow.failing[0]
        for turn in range(5, 30):
            slow.learn(0, sample(at=turn))
        assert slow.failing[0] < 0.4 * before

    def test_what_fails_always_is_never_thought_to_fail_for_certain(self) -> None:
        learned = columns()
        for turn in range(500):
            learned.failed(0, 1e300, turn)
        assert 0.9 < learned.failing[0] < 1.0
        assert math.isfinite(learned.lost[0])

    def test_a_failure_is_forgotten_within_minutes(self) -> None:
        learned = columns()
        for turn in range(10):
            learned.failed(0, 10.0, turn)
        before = learned.failing[0]
        learned.refresh(10 + FAILURE_LIFETIME)
        assert learned.failing[0] == pytest.approx(before / math.e, rel=0.05)
        learned.refresh(10 + 20 * FAILURE_LIFETIME)
        assert learned.failing[0] < 1e-6

    def test_a_clock_that_jumps_back_brings_no_failure_back(self) -> None:
        learned = columns()
        learned.failed(0, 10.0, 1e6)
        before = learned.failing[0]
        learned.learn(0, sample(at=5.0))
        learned.refresh(0.0)
        assert 0.0 < learned.failing[0] <= before

    def test_a_failure_after_a_hundred_answers_weighs_less_than_the_first_ever(self) -> None:
        known, unknown = columns(), columns()
        for turn in range(100):
            known.learn(0, sample(at=turn))
        known.failed(0, 1.0, 100.0)
        unknown.failed(0, 1.0, 100.0)
        assert 0.0 < known.failing[0] <= unknown.failing[0]


class TestGivenUp:
    def test_an_answer_that_was_waited_for_in_vain_makes_a_model_slower(self) -> None:
        learned = columns()
        for turn in range(10):
            learned.took_longer(0, sample(completion=None, prompt=None, duration=30.0, at=turn))
        assert latency(learned) > 10.0
        assert learned.samples == [0], "it was no answer"

    @settings(max_examples=150)
    @given(
        known=st.integers(0, 30),
        duration=st.floats(0.0, 100.0),
        streamed=st.booleans(),
        beside=st.integers(0, 20),
        times=st.integers(1, 20),
    )
    def test_it_never_makes_one_faster(
        self, known: int, duration: float, streamed: bool, beside: int, times: int
    ) -> None:
        learned, chance = columns(), random.Random(known)
        for turn in range(known):
            factor = math.exp(0.2 * chance.gauss())
            learned.learn(0, sample(ttft=1.5 * factor, duration=3.5 * factor, at=turn))
        expected = learned.forecast(0, None, 1000, None)[0]
        before = latency(learned, 1000, expected)
        given_up = sample(
            completion=None,
            prompt=None,
            ttft=min(1.5, duration) if streamed else None,
            duration=duration,
            beside=beside,
            at=50.0,
        )
        tail = learned.tail[0]
        for _ in range(times):
            learned.took_longer(0, given_up)
        assert latency(learned, 1000, expected) >= before * (1 - 0.02)
        assert learned.tail[0] >= tail
        assert learned.forecast(0, None, 1000, None)[0] == expected

    def test_what_was_given_up_before_it_could_have_been_there_says_nothing(self) -> None:
        learned = columns()
        before = (list(learned.base), list(learned.spread), list(learned.tail))
        learned.took_longer(0, sample(completion=None, duration=1.0))
        assert (learned.base, learned.spread, learned.tail) == before


def swaps(*, noise: float, lengths: float, seed: int, count: int = 1000) -> int:
    """How often two models that are as good as each other change places while each answers in its turn."""
    learned, chance = columns(2), random.Random(seed)
    swapped, beside = 0, False
    for turn in range(count):
        out = max(1, round(chance.lognormvariate(5, lengths)))
        seconds = math.exp(noise * chance.gauss()) * (1.5 + out / 50)
        learned.learn(turn % 2, sample(task="chat", completion=out, duration=seconds, at=turn))
        first, second = (latency(learned, 1000, length(learned, "chat", place), place) for place in (0, 1))
        swapped += (first < second) != beside
        beside = first < second
    return swapped


class TestSteadiness:
    @pytest.mark.parametrize(("noise", "lengths"), [(0.5, 0.01), (0.3, 0.5), (0.1, 0.1), (0.02, 0.02)])
    def test_two_equal_models_do_not_change_places_at_every_answer(
        self, noise: float, lengths: float
    ) -> None:
        found = [swaps(noise=noise, lengths=lengths, seed=seed) for seed in range(4)]
        assert fmean(found) < 1000 / 10


def full() -> Columns:
    """Two models of which much was learned, the second under load, failing, and at several tasks."""
    learned, chance = columns(2), random.Random(5)
    for turn in range(80):
        prompt = round(chance.lognormvariate(6.5, 0.8))
        for task, out in (("code", 900), ("intent", 5), (None, 0.5 * prompt)):
            tokens = max(1, round(out * math.exp(0.2 * chance.gauss())))
            for place in (0, 1):
                seconds = (place + 1) * (0.5 + prompt / 1000 + tokens / 50) * math.exp(0.2 * chance.gauss())
                learned.learn(
                    place,
                    sample(
                        task=task,
                        counted=prompt,
                        prompt=round(1.3 * prompt),
                        completion=tokens * (place + 1),
                        ttft=0.3 * seconds,
                        duration=seconds,
                        beside=turn % 6 if place else 0,
                        at=turn,
                    ),
                )
    for turn in range(5):
        learned.failed(1, 4.0, 80.0 + turn)
    learned.loaded(1, 3.0)
    return learned


LISTS = (
    "ratio", "frame", "base", "per_in", "per_out", "spread", "first_spread", "tail", "first_tail", "failing",
    "lost", "load", "samples", "service",
)  # fmt: skip


class TestCarriedOver:
    def test_everything_about_a_model_is_kept(self) -> None:
        old, new = full(), columns(3)
        new.carry_over(2, old, 1)
        for name in LISTS:
            assert getattr(new, name)[2] == getattr(old, name)[1], name
        for task in ("code", "intent", None, "never seen"):
            for prompt in (100.0, 5000.0):
                assert new.forecast(2, task, prompt, None) == old.forecast(1, task, prompt, None)
            assert new.forecasts.outputs(task).seen.get(2) == old.forecasts.outputs(task).seen.get(1)
            assert new.forecasts.expected(task) == old.forecasts.expected(task)
        for calls in (1, 5, 50):
            assert new.slowdown(2, calls) == old.slowdown(1, calls)
        assert new.doubt(2, 500.0) == old.doubt(1, 500.0)

    def test_it_goes_on_as_if_nothing_had_happened(self) -> None:
        old, new = full(), columns(2)
        for place in (0, 1):
            new.carry_over(1 - place, old, place)
        for turn in range(40):
            told = sample(task="code", completion=700, ttft=2.0, duration=18.0, beside=2, at=90 + turn)
            old.learn(1, told)
            new.learn(0, told)
        for name in LISTS:
            assert getattr(new, name)[0] == pytest.approx(getattr(old, name)[1]), name
        assert length(new, "code", 0) == pytest.approx(length(old, "code", 1))
        for learned in (old, new):
            for _ in range(5):
                learned.refresh(10 * LONG_LIFETIME)
        assert latency(new) == pytest.approx(latency(old, place=1))

    def test_what_a_straggler_shows_to_both_is_learned_once_in_each(self) -> None:
        old = full()
        alone, new = copy.deepcopy(old), columns(2)
        for place in (0, 1):
            new.carry_over(place, old, place)
        for turn in range(10):
            told = sample(task="code", completion=3000, ttft=5.0, duration=90.0, beside=3, at=90 + turn)
            for learned in (old, new, alone):
                learned.learn(0, told)
                learned.failed(0, 2.0, 90 + turn)
        for learned in (old, new):
            assert latency(learned) == pytest.approx(latency(alone))
            assert length(learned, "code") == pytest.approx(length(alone, "code"))
            assert learned.failing[0] == pytest.approx(alone.failing[0])
            assert learned.slowdown(0, 3) == pytest.approx(alone.slowdown(0, 3))
            assert learned.forecasts.expected("never seen") == pytest.approx(
                alone.forecasts.expected("never seen")
            )

    def test_other_models_speeds_know_nothing_of_it(self) -> None:
        old, new = full(), columns(3)
        new.carry_over(2, old, 1)
        assert new.ratio[:2] == [1.0, 1.0]
        assert new.base[:2] == [0.5, 0.5]
        assert new.samples[:2] == [0, 0]
        assert new.slowdown(0, 5) == columns().slowdown(0, 5)

    def test_a_model_that_comes_new_starts_from_the_others_lengths(self) -> None:
        old, new = full(), columns(3)
        for place in (0, 1):
            new.carry_over(place, old, place)
        assert length(new, "intent", 2) < 30
        assert length(new, "code", 2) > 400

    def test_more_tasks_than_there_is_room_for_do_not_spoil_the_nameless_one(self) -> None:
        old, new = columns(), columns()
        for place in range(MOST_TASKS):
            new.learn(0, sample(task=f"new {place}", completion=100))
        answers(old, "long", 9000, count=10)
        answers(old, None, 50, count=60)
        new.carry_over(0, old, 0)
        assert length(new, None) == length(old, None)
        assert len(new.forecasts._tasks) == MOST_TASKS

    def test_nothing_learned_is_nothing_carried_over(self) -> None:
        new = columns()
        new.carry_over(0, columns(), 0)
        assert latency(new) == latency(columns())
        assert length(new, "code") == EXPECTED_OUTPUT_TOKENS


class TestReaders:
    def test_a_line_that_a_reader_found_stays_where_it_found_it(self) -> None:
        learned, chance = columns(), random.Random(3)
        for _ in range(60):
            prompt = chance.randint(100, 5000)
            learned.learn(0, sample(prompt=prompt, completion=prompt // 2))
        held = learned.forecasts.outputs(None).sloped  # a decision begins, and is interrupted
        assert 0 in held
        for _ in range(400):
            learned.learn(0, sample(prompt=chance.randint(100, 5000), completion=chance.randint(50, 500)))
        assert 0 not in learned.forecasts.outputs(None).sloped
        assert held[0].at(500.0) > 0

    def test_a_reader_without_a_lock_never_sees_a_half_made_state(self) -> None:
        learned = columns(3)
        over = threading.Event()
        failures: list[BaseException] = []

        def read() -> None:
            try:
                while not over.is_set():
                    for place in range(3):
                        outputs = learned.forecasts.outputs("code")
                        sloped = outputs.sloped  # as ranking reads it
                        if place in sloped:
                            assert 0 < sloped[place].at(500.0) < 1e6
                        assert 0 < outputs.mean[place] < 1e6
                        assert 0 < length(learned, "intent", place) < 1e6
                        assert 0 < latency(learned, place=place) < 1e4
                        assert all(1 <= factor < 100 for factor in learned.slowdown(place, 50))
                        assert 0 < learned.forecasts.expected("code") < 1e6
                        assert 0 < learned.doubt(place, 50.0) < 10
            except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
                failures.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        chance = random.Random(1)
        for turn in range(1500):
            prompt = chance.randint(50, 5000)
            follows = (turn // 100) % 2  # lines come and go
            out = max(1, round(0.5 * prompt if follows else chance.lognormvariate(5, 0.5)))
            learned.learn(
                turn % 3,
                sample(
                    task="code" if turn % 5 else f"task {turn}",
                    prompt=prompt,
                    completion=out,
                    duration=1 + out / 50,
                    beside=1 << (turn % 12),
                    at=turn,
                ),
            )
        over.set()
        reader.join(10)
        assert not failures


ANY_SECONDS = st.one_of(
    st.floats(),
    st.sampled_from([0.0, -1.0, 1e-9, 3.5, 1e6, 1e308, math.nan, math.inf, -math.inf]),
)
ANY_COUNT = st.none() | st.integers(0, 50_000_000)
ANY_SAMPLE = st.builds(
    sample,
    task=st.none() | st.sampled_from(["support", "code"]),
    counted=st.integers(0, 10_000_000),
    prompt=ANY_COUNT,
    completion=ANY_COUNT,
    ttft=st.none() | ANY_SECONDS,
    duration=ANY_SECONDS,
    cached=st.integers(0, 10_000_000),
    max_tokens=st.none() | st.integers(1, 10_000_000),
    choices=st.integers(1, 128),
    beside=st.integers(0, 10**9),
    at=st.floats(allow_nan=False, allow_infinity=False),
)
ANY_EVENT = st.tuples(st.sampled_from(["learn", "took_longer", "failed", "loaded"]), ANY_SAMPLE)


def check(learned: Columns) -> None:
    for name in LISTS:
        least = 0.0 if name in ("frame", "failing", "lost", "load", "samples") else 1e-300
        assert all(least <= value < 1e300 for value in getattr(learned, name)), name
    for task in ("support", "code", None, "never seen"):
        for prompt in (0.0, 500.0, 1e7):
            for limit in (None, 1, 10_000_000):
                mean, spread = learned.forecast(0, task, prompt, limit)
                assert 0.0 < mean < 1e15
                assert 0.0 <= spread < 100.0
    for calls in (0, 5, 10**9):
        assert all(1.0 <= factor < math.inf for factor in learned.slowdown(0, calls))


class TestWhateverComes:
    @settings(max_examples=150)
    @given(st.lists(ANY_EVENT, max_size=30))
    def test_columns_stay_finite_and_positive(self, events: list[tuple[str, Sample]]) -> None:
        learned = columns()
        for name, told in events:
            if name == "learn":
                learned.learn(0, told)
            elif name == "took_longer":
                learned.took_longer(0, told)
            elif name == "failed":
                learned.failed(0, told.duration, told.at)
            else:
                learned.loaded(0, told.duration)
            learned.refresh(told.at)
        check(learned)

    @pytest.mark.parametrize(
        "stubborn",
        [
            sample(duration=1e308, ttft=1e308),
            sample(duration=1e308),
            sample(duration=0.0, ttft=0.0, completion=50_000_000, prompt=50_000_000),
            sample(duration=0.0),
            sample(duration=-1.0, ttft=5.0),
            sample(completion=0, duration=0.0),
            sample(prompt=50_000_000, counted=1),
            sample(prompt=1, counted=10_000_000),
            sample(ttft=1.5),
        ],
        ids=[
            "endless",
            "endless in one piece",
            "at once",
            "nothing",
            "backwards",
            "empty",
            "huge",
            "tiny",
            "steady",
        ],
    )
    @pytest.mark.parametrize("between", [None, sample(ttft=1e300, duration=1e300, completion=1)])
    def test_the_same_without_end_breaks_nothing(self, stubborn: Sample, between: Sample | None) -> None:
        learned = columns()
        for _ in range(1500):
            learned.learn(0, stubborn)
            if between is not None:
                learned.learn(0, between)
        check(learned)
