"""How much slower a model gets under load: learned where it was seen, cautious where it was not."""

from __future__ import annotations

import math
import random
import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.learning.response import HOSTED_SLOPE, LOCAL_SLOPE, Response

CALLS = st.integers(-5, 10**9)
FACTORS = st.floats(allow_nan=False)


def knee(calls: int, slots: int) -> float:
    """A host that serves so many at once, and makes what is beyond them share."""
    return max(1.0, (calls + 1) / slots)


def learned(
    slots: int, *, most: int, answers: int = 1500, seed: int = 0, slope: float = HOSTED_SLOPE
) -> Response:
    chance, response = random.Random(seed), Response(slope)
    for _ in range(answers):
        calls = chance.randint(0, most)
        response.learn(calls, knee(calls, slots) * math.exp(0.15 * chance.gauss()))
    return response


class TestAtFirst:
    @pytest.mark.parametrize("slope", [HOSTED_SLOPE, LOCAL_SLOPE])
    def test_a_line_is_assumed(self, slope: float) -> None:
        assert [Response(slope).at(calls) for calls in (0, 1, 10, 1000)] == pytest.approx(
            [1.0, 1 + slope, 1 + 10 * slope, 1 + 1000 * slope]
        )

    @pytest.mark.parametrize("calls", [0, -1, -(10**9)])
    def test_alone_nothing_is_slower(self, calls: int) -> None:
        response = learned(2, most=16)
        response.learn(calls, 50.0)
        assert response.at(calls) == 1.0


class TestLearned:
    def test_a_host_with_eight_slots_is_not_slowed_down_by_seven_calls(self) -> None:
        response = learned(8, most=40)
        assert [response.at(calls) for calls in range(1, 6)] == pytest.approx([1.0] * 5, abs=0.15)

    @pytest.mark.parametrize("calls", [16, 24, 32, 40])
    def test_beyond_its_slots_calls_share(self, calls: int) -> None:
        assert learned(8, most=40).at(calls) == pytest.approx(knee(calls, 8), rel=0.2)

    def test_a_single_server_is_seen_to_be_one(self) -> None:
        response = learned(1, most=20)
        for calls in (1, 2, 4, 8, 16, 20):
            assert response.at(calls) == pytest.approx(calls + 1, rel=0.25)

    def test_a_host_that_nothing_slows_down_is_seen_to_be_one(self) -> None:
        response = learned(10**9, most=200)
        assert response.at(100) < 1.3

    def test_a_host_that_got_more_slots_is_seen_to_have_them(self) -> None:
        response, chance = learned(2, most=20), random.Random(9)
        for _ in range(2000):
            calls = chance.randint(1, 20)
            response.learn(calls, knee(calls, 16) * math.exp(0.15 * chance.gauss()))
        assert response.at(12) < 1.4

    def test_one_absurd_answer_moves_the_line_little(self) -> None:
        response = learned(8, most=40)
        before = response.at(20)
        response.learn(20, 1e300)
        assert before <= response.at(20) < 1.3 * before

    @pytest.mark.parametrize("seed", range(5))
    def test_beyond_what_was_seen_it_is_at_least_as_cautious_as_before_anything_was(self, seed: int) -> None:
        response = learned(10**9, most=6, seed=seed)
        for calls in (20, 200, 10_000):
            assert response.at(calls) >= 1.0 + HOSTED_SLOPE * (calls - 6) * 0.9

    def test_the_scatter_of_a_few_answers_is_no_slope(self) -> None:
        response = Response(HOSTED_SLOPE)
        for factor in (1.6, 0.9, 1.3):
            response.learn(5, factor)
        assert response.at(5) == pytest.approx(1.0 + 5 * HOSTED_SLOPE, rel=0.05)
        for _ in range(200):
            response.learn(5, 1.6)
        assert response.at(5) == pytest.approx(1.6, rel=0.1)

    def test_beyond_what_was_seen_a_steep_line_goes_on_as_steeply(self) -> None:
        assert learned(1, most=20).at(200) == pytest.approx(201, rel=0.35)


class TestShape:
    @settings(max_examples=150)
    @given(
        samples=st.lists(st.tuples(CALLS, FACTORS), max_size=60),
        slope=st.sampled_from([HOSTED_SLOPE, LOCAL_SLOPE]),
    )
    def test_whatever_comes_more_calls_never_make_it_faster(
        self, samples: list[tuple[int, float]], slope: float
    ) -> None:
        response = Response(slope)
        for calls, factor in samples:
            response.learn(calls, factor)
        asked = sorted({0, 1, 2, 3, 5, 8, 100, 10**6, *(max(calls, 0) for calls, _ in samples)})
        found = [response.at(calls) for calls in asked]
        assert found[0] == 1.0
        assert all(1.0 <= factor < math.inf for factor in found)
        assert all(low <= high * (1 + 1e-9) for low, high in pairwise(found))

    def test_a_slow_down_told_for_ever_is_bounded_by_what_was_told(self) -> None:
        response = Response(LOCAL_SLOPE)
        for _ in range(5000):
            response.learn(3, 40.0)
        assert response.at(3) == pytest.approx(40.0, rel=0.05)

    def test_a_million_counts_of_calls_are_kept_in_a_few_points(self) -> None:
        response = Response(HOSTED_SLOPE)
        for calls in range(1, 20_000):
            response.learn(calls, 1.0)
        assert len(response._points) <= 15

    def test_a_reader_without_a_lock_never_meets_a_line_in_the_making(self) -> None:
        over = threading.Event()
        failures: list[BaseException] = []
        shared = [Response(HOSTED_SLOPE)]

        def read() -> None:
            try:
                while not over.is_set():
                    assert shared[0].at(10**7) >= 1.0
            except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
                failures.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        for turn in range(300):
            shared[0] = Response(HOSTED_SLOPE)
            for power in range(20):
                shared[0].learn(1 << ((power + turn) % 20), 2.0)
        over.set()
        reader.join(10)
        assert not failures
