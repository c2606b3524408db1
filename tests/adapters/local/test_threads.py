"""How many threads to compute with: what may be used, and what of it was measured to be best."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.local.cores import Machine, _cores, _fast, _quota, machine
from adapters.local.threads import CLEARLY, TELLING, Threads, candidates, fastest, tune
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.kit import Alone


class TestCandidates:
    @pytest.mark.parametrize(
        ("here", "counts"),
        [
            (Machine(1), (1,)),
            (Machine(2), (2, 1)),
            (Machine(8), (8, 4, 1)),
            (Machine(14, fast=6), (14, 7, 6, 1)),
            (Machine(8, quota=4.0), (4, 2, 1)),
            (Machine(8, quota=2.5), (3, 2, 1)),
            (Machine(8, quota=0.5), (1,)),
            (Machine(4, quota=16.0), (4, 2, 1)),
            (Machine(0), (1,)),
        ],
    )
    def test_they_are_what_may_be_used_the_largest_first(self, here: Machine, counts: Sequence[int]) -> None:
        assert candidates(here) == counts

    @given(st.integers(-2, 300), st.integers(0, 300), st.floats(0.01, 400.0) | st.just(math.inf))
    def test_whatever_the_machine_none_is_more_than_it_has(self, cores: int, fast: int, quota: float) -> None:
        here = Machine(cores, fast, quota)
        found = candidates(here)
        assert found[0] == here.most <= max(cores, 1)
        assert found[-1] == 1
        assert list(found) == sorted(set(found), reverse=True)


class TestChoice:
    @pytest.mark.parametrize(
        ("took", "best"),
        [
            ({4: [1.0], 2: [1.9], 1: [3.7]}, 4),
            ({4: [1.0], 2: [0.95], 1: [1.8]}, 4),  # hardly better: not worth two cores
            ({4: [2.0], 2: [1.0], 1: [1.9]}, 2),
            ({8: [1.0], 4: [0.8], 1: [0.78]}, 4),  # one is hardly better than four
            ({8: [1.0], 4: [0.8], 1: [0.5]}, 1),
            ({4: [1.0, 1.0, 9.0], 2: [1.5, 1.5, 1.5]}, 4),  # somebody else was busy once
            ({4: [], 2: [1.0]}, 2),
        ],
    )
    def test_more_threads_unless_fewer_are_clearly_better(
        self, took: Mapping[int, Sequence[float]], best: int
    ) -> None:
        assert fastest(took) == best

    def test_without_a_measurement_there_is_no_choice(self) -> None:
        with pytest.raises(ValueError, match="nothing"):
            fastest({2: []})

    @given(
        st.dictionaries(
            st.integers(1, 64), st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=5), min_size=1
        )
    )
    def test_the_chosen_is_never_clearly_slower_than_all_fewer(self, took: dict[int, list[float]]) -> None:
        best = fastest(took)

        def typical(count: int) -> float:
            half = sorted(took[count])[: (len(took[count]) + 1) // 2]
            return sum(half) / len(half)

        assert all(typical(count) >= CLEARLY * typical(best) for count in took if count < best)


class Rig:
    """A machine with a clock of its own, on which a step takes what a table says."""

    def __init__(self, cores: int, seconds: Mapping[int, float]) -> None:
        self.now = 0.0
        self.steps: list[int] = []
        self._seconds = seconds
        self.threads = Threads(lambda: Machine(cores), lambda: self.now)

    def step(self, count: int) -> float:
        self.steps.append(count)
        seconds = self._seconds[count]
        self.now += seconds if seconds < math.inf else 0.01
        return seconds


class TestMeasuring:
    def test_the_best_is_kept_for_the_models_to_come(self) -> None:
        rig = Rig(4, {4: 0.02, 2: 0.01, 1: 0.02})
        assert rig.threads.guess() == 4
        assert rig.threads.measure(rig.step) == 2
        done = len(rig.steps)
        assert rig.threads.measure(rig.step) == rig.threads.guess() == 2
        assert len(rig.steps) == done

    def test_with_one_candidate_nothing_is_measured(self) -> None:
        rig = Rig(1, {})
        assert rig.threads.measure(rig.step) == rig.threads.guess() == 1
        assert rig.steps == []

    def test_the_candidates_take_turns(self) -> None:
        rig = Rig(2, {2: 0.01, 1: 0.02})
        rig.threads.measure(rig.step)
        assert rig.steps[:5] == [2, 2, 1, 1, 2]

    def test_it_ends_in_time(self) -> None:
        rig = Rig(8, {8: 0.03, 4: 0.05, 1: 0.2})
        rig.threads.measure(rig.step, limit=0.5)
        assert rig.now <= 0.5 + 0.2

    def test_a_model_too_slow_to_measure_gets_the_most_and_the_next_one_is_measured(self) -> None:
        rig = Rig(2, {2: 3.0, 1: 1.0})
        assert rig.threads.measure(rig.step) == 2
        assert len(rig.steps) == 1
        quick = {2: 0.02, 1: 0.01}
        assert rig.threads.measure(lambda count: quick[count]) == 1
        assert rig.threads.guess() == 1

    def test_a_tiny_model_tells_nothing_about_others(self) -> None:
        rig = Rig(2, {2: TELLING / 2, 1: TELLING / 4})
        assert rig.threads.measure(rig.step) == 1
        assert rig.threads.guess() == 2

    def test_steps_beside_somebody_elses_work_count_for_nothing(self) -> None:
        rig = Rig(2, {2: math.inf, 1: 0.01})
        assert rig.threads.measure(rig.step) == rig.threads.guess() == 2

    def test_while_one_model_is_measured_another_is_not(self) -> None:
        rig, inside, go_on = Rig(2, {}), threading.Event(), threading.Event()

        def slow(count: int) -> float:
            inside.set()
            go_on.wait(10)
            return {2: 0.02, 1: 0.01}[count]

        first = threading.Thread(target=rig.threads.measure, args=(slow,))
        first.start()
        assert inside.wait(10)
        assert rig.threads.measure(rig.step) == 2
        assert rig.steps == []
        go_on.set()
        first.join(10)
        assert rig.threads.guess() == 1

    def test_a_step_that_fails_leaves_everything_as_it_was(self) -> None:
        rig = Rig(2, {2: 0.02, 1: 0.01})

        def broken(_count: int) -> float:
            raise KeyError

        with pytest.raises(KeyError):
            rig.threads.measure(broken)
        assert rig.threads.guess() == 2
        assert rig.threads.measure(rig.step) == 1


class TestSystem:
    def test_this_machine_has_a_core(self) -> None:
        here = machine()
        assert 1 <= here.fast <= here.cores <= (os.cpu_count() or 1)
        assert here.quota > 0

    def _topology(self, root: Path, siblings: Sequence[str], capacity: Sequence[int] = ()) -> Path:
        for cpu, listed in enumerate(siblings):
            folder = root / f"system/cpu/cpu{cpu}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(f"{listed}\n")
        for cpu, able in enumerate(capacity):
            (root / f"system/cpu/cpu{cpu}/cpu_capacity").write_text(f"{able}\n")
        return root / "system/cpu"

    def test_threads_of_one_core_count_once(self, tmp_path: Path) -> None:
        root = self._topology(tmp_path, ["0,4", "1,5", "2,6", "3,7"] * 2)
        assert len(_cores(range(8), root) or ()) == 4
        assert len(_cores([0, 4, 1], root) or ()) == 2, "of those that this process may use"

    def test_a_system_that_tells_nothing_is_not_guessed_about(self, tmp_path: Path) -> None:
        assert _cores(range(4), tmp_path) is None

    def test_performance_cores_are_told_by_intel(self, tmp_path: Path) -> None:
        root = self._topology(tmp_path, ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"])
        (tmp_path / "cpu_core").mkdir()
        (tmp_path / "cpu_core/cpus").write_text("0-3\n")
        cores = _cores(range(8), root)
        assert cores is not None
        assert (len(cores), len(_fast(cores, root))) == (6, 2)

    def test_performance_cores_are_told_by_arm(self, tmp_path: Path) -> None:
        root = self._topology(tmp_path, ["0", "1", "2", "3"], [446, 446, 1024, 1000])
        cores = _cores(range(4), root)
        assert cores is not None
        assert _fast(cores, root) == [2, 3]

    def test_cores_that_are_alike_are_all_fast(self, tmp_path: Path) -> None:
        root = self._topology(tmp_path, ["0", "1", "2"])
        cores = _cores(range(3), root)
        assert cores is not None
        assert len(_fast(cores, root)) == 3


class TestQuota:
    def _own(self, root: Path, text: str) -> Path:
        own = root / "own"
        own.write_text(text)
        return own

    def test_the_tightest_of_all_groups_above_holds(self, tmp_path: Path) -> None:
        inner = tmp_path / "groups/app/worker"
        inner.mkdir(parents=True)
        (tmp_path / "groups/cpu.max").write_text("max 100000\n")
        (inner.parent / "cpu.max").write_text("150000 100000\n")
        (inner / "cpu.max").write_text("400000 100000\n")
        assert _quota(tmp_path / "groups", self._own(tmp_path, "0::/app/worker\n")) == 1.5

    def test_a_container_sees_its_own_group_as_the_root(self, tmp_path: Path) -> None:
        (tmp_path / "cpu.max").write_text("200000 100000\n")
        assert _quota(tmp_path, self._own(tmp_path, "0::/docker/1234\n")) == 2.0

    def test_the_older_groups_count_too(self, tmp_path: Path) -> None:
        (tmp_path / "cpu/app").mkdir(parents=True)
        (tmp_path / "cpu/app/cpu.cfs_quota_us").write_text("50000\n")
        (tmp_path / "cpu/app/cpu.cfs_period_us").write_text("100000\n")
        (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
        (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
        own = self._own(tmp_path, "4:memory:/x\n3:cpu,cpuacct:/app\n0::/\n")
        assert _quota(tmp_path, own) == 0.5

    @pytest.mark.parametrize("text", ["", "max\n", "max 100000\n", "0 0\n", "many 1\n", "-1 100000\n"])
    def test_no_limit_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "cpu.max").write_text(text)
        assert _quota(tmp_path, self._own(tmp_path, "0::/\n")) == math.inf

    def test_without_groups_there_is_no_limit(self, tmp_path: Path) -> None:
        assert _quota(tmp_path / "none", tmp_path / "none") == math.inf


@pytest.mark.gguf
class TestReal:
    def test_a_context_is_tuned_and_computes_what_it_did_before(self, tiny: Tiny) -> None:
        one = Alone(tiny("qwen3"), threads=1)
        try:
            tokens = one.model.tokenize("the quick brown fox")
            one.decode(tokens)
            before = one.logits()
            one.reset()
            best = tune(one.context, loading=1.0)
            assert 1 <= best <= machine().most
            one.decode(tokens)
            assert (one.logits() == before).all()
        finally:
            one.close()
