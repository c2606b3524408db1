"""Fine-tunes of one model, each with a LoRA adapter of its own, on one copy of the weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from adapters.local.batching import BatchingEngine
from adapters.local.native import LoadSettings, NativeError, NativeWeights
from adapters.local.residency import RESIDENCY
from adapters.local.weights import WEIGHTS, Shared, Weights
from router.models import LocalModel
from tests.adapters.local.batching.kit import engine_of, job_of
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.kit import until
from tests.gguf_lora import write_lora

pytestmark = pytest.mark.gguf

PROMPT = "the quick brown fox jumps over"
Build = Callable[..., BatchingEngine]


@pytest.fixture
def build() -> Iterator[Build]:
    made: list[BatchingEngine] = []

    def engine(path: Path, **options: object) -> BatchingEngine:
        made.append(engine_of(path, **options))
        return made[-1]

    yield engine
    for one in made:
        one.close()


def said(engine: BatchingEngine, prompt: str = PROMPT, most: int = 16) -> bytes:
    job, heard = job_of(prompt, most)
    engine.submit(job)
    return heard.text


def alone(path: Path, **options: object) -> bytes:
    engine = engine_of(path, **options)
    try:
        return said(engine)
    finally:
        engine.close()


def test_fine_tunes_share_weights_and_each_says_what_it_says_alone(
    tiny: Tiny, tmp_path: Path, build: Build
) -> None:
    base = tiny("qwen3")
    loras = [None, *(write_lora(tmp_path / f"{seed}.gguf", base, seed=seed) for seed in (1, 2))]
    expected = [alone(base, lora=lora) for lora in loras]
    assert len(set(expected)) == 3
    engines = [build(base, lora=lora) for lora in loras]
    jobs = [job_of(PROMPT, 16) for _ in range(4) for _ in engines]
    for place, (job, _) in enumerate(jobs):
        engines[place % 3].submit(job)
    for place, (_, heard) in enumerate(jobs):
        assert heard.text == expected[place % 3]
    assert len(WEIGHTS._shared) == 1
    assert next(iter(WEIGHTS._shared.values())).users == 3


def test_memory_holds_one_copy_of_the_weights(smollm: Path, tmp_path: Path, build: Build) -> None:
    loras = [write_lora(tmp_path / f"{seed}.gguf", smollm, seed=seed, scale=0.1) for seed in (1, 2)]
    weights = 96 << 20  # two more copies would take twice that
    options = {"n_ctx": 64, "max_parallel": 1}
    first = build(smollm, **options)
    texts = [said(first, most=4)]
    held, resident = RESIDENCY.held(), psutil.Process().memory_info().rss
    for lora in loras:
        texts.append(said(build(smollm, lora=lora, **options), most=4))
    assert RESIDENCY.held() - held < weights
    assert psutil.Process().memory_info().rss - resident < weights
    assert len(set(texts)) > 1


def test_the_last_one_frees_the_weights(tiny: Tiny, tmp_path: Path, build: Build) -> None:
    base = tiny("llama")
    one, two = build(base), build(base, lora=write_lora(tmp_path / "l.gguf", base, seed=3))
    before, tuned = said(one), said(two)
    one.close()
    assert said(two) == tuned
    assert len(WEIGHTS._shared) == 1
    two.close()
    assert not WEIGHTS._shared
    assert said(build(base)) == before


def test_an_adapter_for_another_model_is_refused_and_harms_nobody(
    tiny: Tiny, tmp_path: Path, build: Build
) -> None:
    base = tiny("qwen3")
    good = build(base)
    before = said(good)
    wrong = write_lora(tmp_path / "wrong.gguf", tiny("llama"), seed=1)
    with pytest.raises(Exception, match="does not fit"):
        said(build(base, lora=wrong))
    assert said(good) == before
    assert next(iter(WEIGHTS._shared.values())).users == 1


def test_fine_tunes_come_and_go_while_another_answers(tiny: Tiny, tmp_path: Path, build: Build) -> None:
    """Adapters are noted in the model that all share: on many threads, that must not go wrong."""
    base = tiny("qwen3")
    lora = write_lora(tmp_path / "l.gguf", base, seed=5)
    steady, expected = build(base), alone(base, lora=lora)
    reference = said(steady)
    over = threading.Event()
    texts: list[bytes] = []

    def come_and_go() -> None:
        while not over.is_set():
            texts.append(alone(base, lora=lora, n_ctx=64, max_parallel=1))

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(25):
            assert said(steady) == reference
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert set(texts) == {expected}


def settings_of(path: Path) -> LoadSettings:
    return LoadSettings(path=path, n_ctx=None, most_ctx=64, n_gpu_layers=0, threads=1, lora=None)


def test_who_wants_the_same_weights_waits_for_the_one_who_loads_them(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, loads, go = Weights(), [], threading.Event()

    class Slow(NativeWeights):
        def __init__(self, settings: LoadSettings, go_on: Callable[[], bool]) -> None:
            loads.append(settings)
            assert go.wait(20)
            super().__init__(settings, go_on)

    monkeypatch.setattr("adapters.local.weights.NativeWeights", Slow)
    taken: list[Shared] = []
    settings = settings_of(tiny("qwen3"))
    threads = [
        threading.Thread(target=lambda: taken.append(weights.take(settings, lambda: True))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    until(lambda: bool(loads) and next(iter(weights._shared.values())).users == 4)
    go.set()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len({id(one.native) for one in taken}) == 1
    for one in taken:
        weights.give_back(one)
    assert not weights._shared


def test_whoever_gives_up_does_not_take_the_weights_from_another_who_wants_them(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Weights()
    wanted, asked = [True], threading.Event()

    class Asking(NativeWeights):
        def __init__(self, settings: LoadSettings, go_on: Callable[[], bool]) -> None:
            asked.set()
            until(lambda: not wanted[0])
            super().__init__(settings, go_on)

    monkeypatch.setattr("adapters.local.weights.NativeWeights", Asking)
    settings = settings_of(tiny("qwen3"))
    outcomes: list[object] = []

    def take(go_on: Callable[[], bool]) -> None:
        try:
            outcomes.append(weights.take(settings, go_on))
        except NativeError as error:
            outcomes.append(error)

    thread = threading.Thread(target=take, args=(lambda: wanted[0],))
    other = threading.Thread(target=take, args=(lambda: True,))
    thread.start()
    assert asked.wait(20)
    other.start()
    until(lambda: next(iter(weights._shared.values())).users == 2)
    wanted[0] = False
    thread.join()
    other.join()
    assert [type(outcome) for outcome in outcomes] == [Shared, Shared]


def test_whoever_waits_for_anothers_load_may_give_up(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, go = Weights(), threading.Event()

    class Slow(NativeWeights):
        def __init__(self, settings: LoadSettings, go_on: Callable[[], bool]) -> None:
            assert go.wait(20)
            super().__init__(settings, go_on)

    monkeypatch.setattr("adapters.local.weights.NativeWeights", Slow)
    settings = settings_of(tiny("qwen3"))
    taken: list[Shared] = []
    thread = threading.Thread(target=lambda: taken.append(weights.take(settings, lambda: True)))
    thread.start()
    until(lambda: bool(weights._shared))
    with pytest.raises(NativeError, match="not wanted"):
        weights.take(settings, lambda: False)
    go.set()
    thread.join()
    assert [one.users for one in taken] == [1]
    weights.give_back(taken[0])


def test_a_load_that_nobody_wants_is_broken_off(tiny: Tiny) -> None:
    weights = Weights()
    with pytest.raises(NativeError):
        weights.take(settings_of(tiny("qwen3")), lambda: False)
    assert not weights._shared
    weights.give_back(weights.take(settings_of(tiny("qwen3")), lambda: True))
    assert not weights._shared


def test_a_model_is_declared_with_a_lora(tmp_path: Path) -> None:
    assert LocalModel("m", path="a.gguf", lora=str(tmp_path / "l.gguf")).lora == tmp_path / "l.gguf"
