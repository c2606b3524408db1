"""A model's speed, learned from its answers: which part is slow, how sure that is, and what of it lasts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.learning.lognormal import sum_quantile
from router.learning.pace import (
    FADING,
    LONG_LIFETIME,
    LONGEST,
    PRIOR_DOUBT,
    REFRESH_EVERY,
    STALE_AFTER,
    Z95,
    Observed,
    Pace,
)
from router.profile import Speed

PRIOR = Speed(ttft=0.6, prefill=5000.0, decode=60.0)
MIXES = [(100.0, 20.0), (500.0, 150.0), (4000.0, 50.0), (300.0, 800.0)]

Noise = Callable[[random.Random], float]


def log_normal(spread: float) -> Noise:
    """A factor of mean 1."""
    return lambda chance: math.exp(spread * chance.gauss() - 0.5 * spread * spread)


@dataclass(frozen=True)
class Host:
    """What a backend is really like: seconds to begin, per prompt token and per output token."""

    base: float = 1.0
    per_in: float = 1 / 4000
    per_out: float = 1 / 80

    def seconds(self, tokens_in: float, tokens_out: float) -> float:
        return self.base + tokens_in * self.per_in + tokens_out * self.per_out

    def answer(
        self,
        chance: random.Random,
        noise: Noise | None = None,
        *,
        slower: float = 1.0,
        streamed: bool = True,
    ) -> Observed:
        factor = slower * (noise(chance) if noise is not None else 1.0)
        tokens_in, tokens_out = chance.lognormvariate(6.0, 0.8), chance.lognormvariate(5.0, 0.6)
        first = factor * (self.base + tokens_in * self.per_in)
        total = first + factor * tokens_out * self.per_out
        return Observed(tokens_in, tokens_out, first if streamed else None, total)


def fresh(*, steady: bool = False) -> Pace:
    return Pace(PRIOR, steady=steady)


def predicted(pace: Pace, tokens_in: float = 500.0, tokens_out: float = 150.0) -> float:
    return pace.speeds.first(tokens_in) + tokens_out * pace.speeds.per_out


def within(pace: Pace, seen: Observed) -> tuple[float, float]:
    """Seconds that 95 % of such answers are predicted to take at most: in all, and to the first token."""
    first = pace.speeds.first(seen.tokens_in)
    total = first + seen.tokens_out * pace.speeds.per_out
    return (
        sum_quantile(((total, 0.0),), pace.spread(), Z95 * pace.tail),
        sum_quantile(((first, 0.0),), pace.first_spread(), Z95 * pace.first_tail),
    )


def take(pace: Pace, seen: Observed, now: float) -> None:
    """As `Columns` does: the tails are judged by what was predicted, and then all is learned from."""
    total, first = within(pace, seen)
    pace.correct(seen.total, total, seen.ttft, first)
    pace.learn(seen, now)


def taught(
    host: Host,
    answers: int,
    *,
    noise: Noise | None = None,
    streamed: bool = True,
    seed: int = 0,
    steady: bool = False,
    slower: float = 1.0,
) -> Pace:
    chance, pace = random.Random(seed), fresh(steady=steady)
    for turn in range(answers):
        take(pace, host.answer(chance, noise, streamed=streamed, slower=slower), turn * 5.0)
    return pace


class TestTheThreeTerms:
    def test_before_any_answer_a_profile_is_taken_at_its_word(self) -> None:
        assert predicted(fresh()) == pytest.approx(0.6 + 500 / 5000 + 150 / 60)

    @pytest.mark.parametrize("streamed", [True, False], ids=["streams", "in one piece"])
    @pytest.mark.parametrize("wrong", [0.2, 1.0, 5.0])
    def test_forty_answers_tell_how_long_any_mix_takes(self, wrong: float, streamed: bool) -> None:
        host = Host(0.6 * wrong, wrong / 5000, wrong / 60)
        pace = taught(host, 40, noise=log_normal(0.1), streamed=streamed)
        for mix in MIXES:
            assert predicted(pace, *mix) == pytest.approx(host.seconds(*mix), rel=0.2)

    @pytest.mark.parametrize(
        "host",
        [Host(3.0, 1 / 5000, 1 / 300), Host(0.12, 1 / 5000, 1 / 12), Host(0.2, 1 / 400, 1 / 60)],
        ids=["slow to begin", "slow to write", "slow to read"],
    )
    def test_a_stream_tells_which_part_is_slow(self, host: Host) -> None:
        pace = taught(host, 80, noise=log_normal(0.1))
        assert pace.speeds.first(0.0) == pytest.approx(host.base, rel=0.35, abs=0.1)
        assert pace.speeds.first(2000.0) == pytest.approx(host.base + 2000 * host.per_in, rel=0.2)
        assert pace.speeds.per_out == pytest.approx(host.per_out, rel=0.1)

    @pytest.mark.parametrize(
        "host",
        [Host(3.0, 1 / 5000, 1 / 300), Host(0.12, 1 / 5000, 1 / 12), Host(0.2, 1 / 400, 1 / 60)],
        ids=["slow to begin", "slow to write", "slow to read"],
    )
    def test_answers_in_one_piece_tell_it_too_if_they_differ_enough(self, host: Host) -> None:
        pace = taught(host, 150, noise=log_normal(0.05), streamed=False)
        for mix in MIXES:
            assert predicted(pace, *mix) == pytest.approx(host.seconds(*mix), rel=0.25)

    @pytest.mark.parametrize("wrong", [0.2, 5.0])
    def test_five_answers_alike_bring_a_wrong_profile_near(self, wrong: float) -> None:
        pace, host = fresh(), Host(0.6 * wrong, wrong / 5000, wrong / 60)
        for turn in range(5):
            take(pace, Observed(500, 150, None, host.seconds(500, 150)), turn)
        assert predicted(pace) == pytest.approx(host.seconds(500, 150), rel=0.25)
        assert predicted(pace, 4000, 50) == pytest.approx(host.seconds(4000, 50), rel=0.35), (
            "all are as wrong"
        )

    def test_an_answer_just_as_predicted_changes_nothing(self) -> None:
        pace = fresh()
        before = predicted(pace)
        pace.learn(Observed(500, 150, 0.7, before), 0.0)
        assert predicted(pace) == pytest.approx(before, rel=1e-6)

    def test_a_stream_without_output_says_nothing_of_the_speed_of_writing(self) -> None:
        pace = fresh()
        for turn in range(20):
            take(pace, Observed(500, 0, 0.7, 0.7), turn)
        assert pace.speeds.per_out == pytest.approx(1 / 60, rel=0.05)

    def test_prompts_that_are_all_cached_teach_a_base_that_could_not_be_seen_before(self) -> None:
        pace, chance = fresh(), random.Random(3)
        for turn in range(60):
            take(pace, Host(1e-4, 1 / 1000, 1 / 60).answer(chance, log_normal(0.3)), turn)
        for turn in range(60, 120):
            take(pace, Observed(0.0, 150, 0.3, 2.8), turn)
        assert 0.15 < pace.speeds.first(0.0) < 0.35


NOISES = {
    "log-normal 0.05": log_normal(0.05),
    "log-normal 0.25": log_normal(0.25),
    "log-normal 0.5": log_normal(0.5),
    "gamma": lambda chance: chance.gammavariate(4, 0.25),
    "gamma, wide": lambda chance: chance.gammavariate(1.5, 1 / 1.5),
    "uniform": lambda chance: chance.uniform(0.5, 1.5),
    "constant and exponential": lambda chance: 0.6 + chance.expovariate(1 / 0.4),
}


def coverage(
    noise: Noise,
    *,
    answers: int,
    seeds: int,
    after: int = 30,
    slower: Callable[[int], float] = lambda _: 1.0,
    streamed: bool = True,
) -> tuple[float, float]:
    """The share of answers within their predicted 95 % quantiles: in all, and to the first token."""
    kept = kept_first = judged = 0
    for seed in range(seeds):
        chance, pace = random.Random(seed), fresh()
        for turn in range(answers):
            seen = Host().answer(chance, noise, slower=slower(turn), streamed=streamed)
            if turn >= after:
                total, first = within(pace, seen)
                judged += 1
                kept += seen.total <= total
                kept_first += seen.ttft is not None and seen.ttft <= first
            take(pace, seen, turn * 5.0)
    return kept / judged, kept_first / judged


class TestTheTail:
    @pytest.mark.parametrize("noise", [name for name in NOISES if name.startswith(("log", "gamma"))])
    @pytest.mark.parametrize("streamed", [True, False], ids=["streams", "in one piece"])
    def test_after_thirty_answers_95_percent_are_within_their_quantile(
        self, noise: str, streamed: bool
    ) -> None:
        total, first = coverage(NOISES[noise], answers=130, seeds=60, streamed=streamed)
        assert 0.93 <= total <= 0.97
        if streamed:
            assert 0.93 <= first <= 0.975

    @pytest.mark.parametrize("noise", ["uniform", "constant and exponential"])
    def test_a_distribution_of_quite_another_shape_is_found_more_slowly(self, noise: str) -> None:
        early, _ = coverage(NOISES[noise], answers=130, seeds=30)
        assert 0.92 <= early <= 0.99
        late, _ = coverage(NOISES[noise], answers=600, after=400, seeds=8)
        assert 0.93 <= late <= 0.97

    @pytest.mark.parametrize("noise", ["log-normal 0.05", "log-normal 0.5", "gamma, wide", "uniform"])
    def test_quantiles_hold_while_the_mean_doubles(self, noise: str) -> None:
        total, first = coverage(
            NOISES[noise], answers=530, seeds=8, slower=lambda turn: 1 + max(0, turn - 30) / 500
        )
        assert 0.90 <= total <= 0.98
        assert 0.90 <= first <= 0.985

    def test_uneven_answers_have_a_wider_spread_than_even_ones(self) -> None:
        even, uneven = (taught(Host(), 100, noise=log_normal(spread)).spread() for spread in (0.05, 0.5))
        assert even < 0.1
        assert uneven == pytest.approx(0.5, rel=0.3)

    def test_the_first_token_has_a_spread_of_its_own(self) -> None:
        chance, pace = random.Random(1), fresh()
        for turn in range(100):
            first = math.exp(0.8 * chance.gauss())
            take(pace, Observed(500, 1000, first, first + 12.0), turn)
        assert pace.first_spread() > 3 * pace.spread()

    def test_the_first_answers_show_a_wrong_profile_and_no_unsteadiness(self) -> None:
        pace = taught(Host(6.0, 1 / 500, 1 / 6), 30, noise=log_normal(0.05))
        assert pace.spread() < 0.2


class TestChange:
    @pytest.mark.parametrize("factor", [0.33, 0.5, 2.0, 4.0])
    @pytest.mark.parametrize("streamed", [True, False], ids=["streams", "in one piece"])
    def test_a_step_is_caught_within_fifteen_answers(self, factor: float, streamed: bool) -> None:
        soon, later = [], []
        for seed in range(15):
            chance, pace = random.Random(seed), fresh()
            for turn in range(160):
                slower = factor if turn >= 100 else 1.0
                seen = Host().answer(chance, log_normal(0.2), slower=slower, streamed=streamed)
                take(pace, seen, turn * 5.0)
                if turn == 114:
                    soon.append(predicted(pace) / Host().seconds(500, 150))
            later.append(predicted(pace) / Host().seconds(500, 150))
        assert math.log(median(soon)) / math.log(factor) > 0.6, "most of the way"
        assert median(later) == pytest.approx(factor, rel=0.1)

    def test_without_a_change_noise_hardly_ever_passes_for_one(self) -> None:
        pace, chance = fresh(), random.Random(7)
        lost = 0
        for turn in range(1000):
            before = pace.weight
            take(pace, Host().answer(chance, log_normal(0.3)), turn * 5.0)
            lost += pace.weight < 0.5 * before
        assert lost <= 10

    @pytest.mark.parametrize("outlier", [1e-4, 0.01, 100.0, 1e5])
    def test_one_outlier_moves_the_mean_little(self, outlier: float) -> None:
        for seed in range(10):
            pace = taught(Host(), 60, noise=log_normal(0.2), seed=seed)
            before = predicted(pace)
            seconds = Host().seconds(500, 150) * outlier
            take(pace, Observed(500, 150, 0.4 * seconds, seconds), 300.0)
            assert predicted(pace) == pytest.approx(before, rel=0.2)

    def test_a_slow_spell_that_left_much_doubt_is_over_after_two_quick_answers(self) -> None:
        pace, chance = taught(Host(), 60), random.Random(4)
        usual = predicted(pace)
        for _ in range(20):
            take(pace, Host().answer(chance, log_normal(1.2), slower=6.0), pace.at + 1.0)
        assert predicted(pace) > 3.0 * usual
        for _ in range(2):
            take(pace, Host().answer(chance, log_normal(0.1)), pace.at + 60.0)
        assert predicted(pace) < 1.5 * usual


class TestTime:
    def test_a_hosts_recent_speed_fades_to_the_long_run_and_that_to_the_profile(self) -> None:
        chance, pace = random.Random(1), fresh()
        usual, slow = Host(1.2, 2 / 5000, 2 / 60), 4.0
        now = 0.0
        for turn in range(200):
            now = turn * 60.0
            take(pace, usual.answer(chance, log_normal(0.1), slower=slow if turn >= 180 else 1.0), now)
        recent, long_run, profile = 4 * usual.seconds(500, 150), usual.seconds(500, 150), predicted(fresh())
        assert predicted(pace) == pytest.approx(recent, rel=0.15)
        assert pace.refresh(now + STALE_AFTER + 5 * FADING)
        assert long_run * 0.9 < predicted(pace) < 0.6 * recent
        assert pace.refresh(now + 10 * LONG_LIFETIME)
        assert predicted(pace) == pytest.approx(profile, rel=0.05)

    def test_a_host_that_was_asked_lately_is_not_faded(self) -> None:
        pace = taught(Host(), 30)
        before = predicted(pace)
        assert not pace.refresh(pace.at + 0.9 * STALE_AFTER)
        assert predicted(pace) == before

    def test_fading_begins_without_a_jump(self) -> None:
        pace = taught(Host(), 30, slower=5.0)
        before = predicted(pace)
        assert pace.refresh(pace.at + STALE_AFTER + 1.0)
        assert predicted(pace) == pytest.approx(before, rel=0.02)

    def test_a_fade_is_not_worked_out_anew_at_every_look(self) -> None:
        pace = taught(Host(), 30)
        stale = pace.at + STALE_AFTER + FADING
        assert pace.refresh(stale)
        assert not pace.refresh(stale + 0.5 * REFRESH_EVERY)
        assert pace.refresh(stale + 2 * REFRESH_EVERY)
        assert pace.refresh(stale - 1.0), "a clock that was set back is no reason to stop"

    def test_a_faded_hosts_next_answer_counts_for_more(self) -> None:
        slow = Observed(500, 150, 2.8, 3 * Host().seconds(500, 150))
        soon, later = taught(Host(), 30), taught(Host(), 30)
        soon.learn(slow, soon.at + 5.0)
        later.learn(slow, later.at + 6 * 3600)
        assert predicted(later) > predicted(soon)

    def test_this_machines_own_speed_does_not_fade(self) -> None:
        pace = taught(Host(), 30, steady=True)
        before = (predicted(pace), pace.doubt(pace.at))
        assert not pace.refresh(pace.at + 30 * LONG_LIFETIME)
        assert (predicted(pace), pace.doubt(pace.at + 30 * LONG_LIFETIME)) == before

    def test_a_model_that_was_never_asked_has_nothing_to_fade(self) -> None:
        assert not fresh().refresh(1e9)

    def test_a_clock_that_jumps_back_does_no_harm(self) -> None:
        straight, jumping = fresh(), fresh()
        chance = random.Random(5)
        answers = [Host().answer(chance, log_normal(0.2)) for _ in range(60)]
        for turn, seen in enumerate(answers):
            straight.learn(seen, 1000.0 + turn)
            jumping.learn(seen, 1000.0 + turn if turn < 30 else turn)
        assert predicted(jumping) == pytest.approx(predicted(straight), rel=0.01)


class TestDoubt:
    def test_it_begins_at_the_profiles_and_shrinks_with_answers(self) -> None:
        doubts = [taught(Host(), answers, noise=log_normal(0.3)).doubt(0.0) for answers in (0, 3, 30)]
        assert doubts[0] == pytest.approx(PRIOR_DOUBT)
        assert doubts[0] > doubts[1] > doubts[2]
        assert doubts[2] < 0.15

    def test_it_grows_with_age_up_to_the_profiles(self) -> None:
        pace = taught(Host(), 30, noise=log_normal(0.3))
        doubts = [pace.doubt(pace.at + age) for age in (0.0, 2 * FADING, 5 * FADING, 1000 * FADING)]
        assert doubts == sorted(set(doubts))
        assert doubts[-1] == pytest.approx(PRIOR_DOUBT)

    def test_an_unsteady_model_leaves_more_doubt(self) -> None:
        steady, unsteady = (taught(Host(), 40, noise=log_normal(spread)) for spread in (0.05, 0.6))
        assert unsteady.doubt(unsteady.at) > 2 * steady.doubt(steady.at)


ANY_TIME = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 1e-300, 1e-9, 1e-6, 0.7, 3.0, 1e6, 1e308, -1.0, -1e308]),
)
ANY_TOKENS = st.one_of(st.floats(0.0, 1e7), st.sampled_from([0.0, 1.0, 500.0, 1e7]))
ANY_CLOCK = st.floats(allow_nan=False, allow_infinity=False)
ANY_RATE = st.sampled_from([0.0, 1e-9, 1.0, 60.0, 1e4, 1e12, 1e308, math.inf])


def check(pace: Pace, now: float) -> None:
    for term in (pace.speeds.base, pace.speeds.per_in, pace.speeds.per_out):
        assert 0.0 < term <= LONGEST
    for value in (pace.spread(), pace.first_spread(), pace.tail, pace.first_tail, pace.doubt(now)):
        assert 0.0 < value < 1e3
    assert 0.0 <= pace.weight < 100.0
    assert all(math.isfinite(value) for value in within(pace, Observed(1e7, 1e7, None, 1.0)))


class TestWhateverComes:
    @settings(max_examples=200)
    @given(
        prior=st.builds(Speed, ttft=ANY_RATE.filter(math.isfinite), prefill=ANY_RATE, decode=ANY_RATE),
        steady=st.booleans(),
        answers=st.lists(
            st.tuples(st.builds(Observed, ANY_TOKENS, ANY_TOKENS, st.none() | ANY_TIME, ANY_TIME), ANY_CLOCK),
            max_size=30,
        ),
        later=ANY_CLOCK,
    )
    def test_speeds_stay_positive_and_finite(
        self, prior: Speed, steady: bool, answers: list[tuple[Observed, float]], later: float
    ) -> None:
        pace = Pace(prior, steady=steady)
        for seen, now in answers:
            take(pace, seen, now)
            check(pace, later)
        pace.refresh(later)
        check(pace, later)

    @settings(max_examples=100)
    @given(
        repeated=st.lists(
            st.builds(Observed, ANY_TOKENS, ANY_TOKENS, st.none() | ANY_TIME, ANY_TIME),
            min_size=1,
            max_size=3,
        )
    )
    def test_the_same_few_without_end_break_nothing(self, repeated: list[Observed]) -> None:
        pace = fresh()
        for turn in range(100):
            take(pace, repeated[turn % len(repeated)], float(turn))
        check(pace, 100.0)

    def test_answers_that_leave_rounding_alone_to_tell_the_terms_apart_are_survived(self) -> None:
        pace = Pace(Speed(ttft=0.6, prefill=1e12, decode=60.0), steady=False)
        for turn, seen in enumerate(
            [  # the shortest sequence found by which the normal equations became singular in floating point
                Observed(500.0, 1.0, None, 1e-6),
                Observed(1e7, 1.0, None, 1e-6),
                Observed(1.0, 1.0, 1e-6, 1.0),
                Observed(500.0, 0.0, None, 60.0),
                Observed(1.0, 0.0, 0.0, 1e-6),
                Observed(500.0, 150.0, 1.0, 1e6),
                Observed(1.0, 0.0, None, 1.0),
            ]
        ):
            pace.learn(seen, float(turn))
            check(pace, turn)

    def test_after_nonsense_a_model_is_measured_rightly_again(self) -> None:
        pace, chance = fresh(), random.Random(2)
        for turn in range(20):
            take(pace, Observed(500, 150, math.inf, math.inf), turn)
            take(pace, Observed(500, 150, -1.0, -5.0), turn)
        for turn in range(20, 240):
            take(pace, Host().answer(chance, log_normal(0.1)), turn)
        assert predicted(pace) == pytest.approx(Host().seconds(500, 150), rel=0.15)
