"""Real models whose chats outlive them: what is restored is what would have been computed."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.local.batching import BatchingEngine
from adapters.local.batching.disk import disk, folder
from adapters.local.batching.states import State
from adapters.local.isolation import ProcessEngine
from router.models import LocalModel
from tests.adapters.local.batching.kit import Heard, engine_of, job_of
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.kit import Alone, until
from tests.gguf_files import write_gguf

pytestmark = pytest.mark.gguf

SYSTEM = "you are a helpful assistant that answers questions and calls tools when they are needed " * 12
OTHER = "the dog and the cat sat on the mat while it was raining in spain, and nobody knew what to do " * 6


#: What follows a whole number of blocks.
TAIL = "\nand what then?"


class Life:
    """Engines on one folder, one after the other."""

    def __init__(self, path: Path, sessions: Path | None) -> None:
        self.path, self.sessions = path, sessions

    def engine(self, **options: object) -> BatchingEngine:
        return engine_of(self.path, session_dir=self.sessions, **{"n_ctx": 1024, **options})

    def said(self, prompt: str, most: int = 12, **options: object) -> Heard:
        """What one engine answers to one prompt in its life."""
        engine = self.engine(**options)
        try:
            return said(engine, prompt, most)
        finally:
            engine.close(wait=20)

    @property
    def files(self) -> list[Path]:
        return sorted(self.sessions.iterdir()) if self.sessions and self.sessions.exists() else []


def said(engine: BatchingEngine, prompt: str, most: int = 12) -> Heard:
    job, heard = job_of(prompt, most)
    engine.submit(job)
    assert heard.text is not None
    return heard


def whole(path: Path, text: str) -> str:
    """As much of a text as fills blocks of tokens.

    What does not fill one is computed again after a restart, and numbers that were computed in other company
    are rounded otherwise. Random weights make other texts of that; so the tests leave no rest.
    """
    alone = Alone(path, n_ctx=1024, threads=1)
    try:
        tokens = alone.model.tokenize(text)
        while len(tokens) % disk.BLOCK or alone.model.tokenize(text + TAIL)[: len(tokens)] != tokens:
            text = text[:-1]
            tokens = alone.model.tokenize(text)
        return text
    finally:
        alone.close()


@pytest.fixture
def life(tiny: Tiny, tmp_path: Path) -> Life:
    return Life(tiny("qwen3"), tmp_path / "sessions")


def remembered(path: Path, first: str, then: str, **options: object) -> Heard:
    """What an engine answers that still has the first prompt in memory."""
    engine = Life(path, None).engine(**options)
    try:
        said(engine, first)
        return said(engine, then)
    finally:
        engine.close(wait=20)


def test_a_conversation_goes_on_after_a_restart_as_if_there_had_been_none(
    smollm: Path, tmp_path: Path
) -> None:
    """Real weights: the text is that of an engine that never stopped, and of one that never saved."""
    life, without = Life(smollm, tmp_path / "sessions"), Life(smollm, None)
    first = SYSTEM + OTHER + SYSTEM + "What is the capital of France?"
    answer = life.said(first, 8).text.decode()
    then = f"{first}{answer} And of Spain?"
    restored, computed = life.said(then), without.said(then)
    assert restored.text == computed.text
    assert computed.cached_tokens == 0
    assert restored.cached_tokens >= restored.prompt_tokens - disk.BLOCK - 16
    assert restored.cached_tokens % disk.BLOCK == 0
    assert restored.prompt_tokens == computed.prompt_tokens


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_every_architecture_is_restored(tiny: Tiny, tmp_path: Path, architecture: str) -> None:
    path = tiny(architecture)  # type: ignore[arg-type]  # one of the names
    life = Life(path, tmp_path / "sessions")
    prompt = whole(path, SYSTEM + OTHER)
    assert life.said(prompt).cached_tokens == 0
    again, memory = life.said(prompt + TAIL), remembered(path, prompt, prompt + TAIL)
    assert again.cached_tokens == memory.cached_tokens >= 256
    assert again.text == memory.text


def test_a_sliding_window_is_restored_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp leaves out what a window does not reach; no block is longer than that."""
    monkeypatch.setattr("tests.gguf_files._GEMMA_WINDOW", 128)
    path = write_gguf(tmp_path / "gemma3.gguf", "gemma3", quantised=True)
    life = Life(path, tmp_path / "sessions")
    prompt = whole(path, SYSTEM + OTHER)
    life.said(prompt)
    for part in (prompt, whole(path, prompt[:-400])):
        again, memory = life.said(part + TAIL), remembered(path, prompt, part + TAIL)
        assert again.cached_tokens == memory.cached_tokens >= 128
        assert again.text == memory.text


def test_a_window_shorter_than_a_block_is_not_saved(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life(tiny("gemma3"), tmp_path / "sessions")
    life.said(SYSTEM + OTHER)
    assert life.files == []
    assert "sliding window" in caplog.text


def test_nothing_is_written_unless_a_folder_is_named(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Life(tiny("qwen3"), None).said(SYSTEM + OTHER)
    assert list(tmp_path.iterdir()) == []
    assert LocalModel("m", path="m.gguf").session_dir is None


def test_it_is_written_while_nobody_waits_and_not_only_at_the_end(life: Life) -> None:
    """A process that is killed loses nothing that it had time to write."""
    engine = life.engine()
    try:
        heard = said(engine, SYSTEM + OTHER)
        until(lambda: len(life.files) >= heard.prompt_tokens // disk.BLOCK)
        assert said(engine, SYSTEM + OTHER + "again").cached_tokens >= heard.prompt_tokens - 1
    finally:
        engine.close(wait=20)


def test_many_chats_at_once_share_what_was_restored(life: Life) -> None:
    """In company, in memory beside others, and in the same cells: the texts stay what they are alone."""
    long = whole(life.path, SYSTEM + OTHER)
    short = whole(life.path, SYSTEM)
    life.said(long)
    prompts = [f"{long if number % 2 else short}{TAIL} {number}: the dog" for number in range(6)]
    alone = [remembered(life.path, long, prompt).text for prompt in prompts]
    engine = life.engine()
    try:
        early, noise = job_of("the cat sat on the mat and " * 4, 60)
        engine.submit(early)
        assert noise.begun.wait(20)
        jobs = [job_of(prompt, 12) for prompt in prompts]
        for job, _ in jobs:
            engine.submit(job)
        assert [heard.text for _, heard in jobs] == alone
        assert all(heard.cached_tokens >= 128 for _, heard in jobs)
        assert noise.text is not None
    finally:
        engine.close(wait=20)


def test_what_had_to_leave_a_small_memory_comes_back_from_disk(life: Life) -> None:
    """Four conversations in a memory for two."""
    prompts = [whole(life.path, f"{number} " * 3 + SYSTEM + OTHER) for number in range(4)]
    engine = life.engine(max_parallel=1)
    try:
        for prompt in prompts:
            said(engine, prompt)
        found = [said(engine, prompt + TAIL) for prompt in prompts]
    finally:
        engine.close(wait=20)
    # The second one was computed across the end of the memory, the last two where others had been.
    assert [heard.cached_tokens > 250 for heard in found].count(True) >= 3
    assert found[0].text == remembered(life.path, prompts[0], prompts[0] + TAIL).text


def test_a_model_that_left_memory_finds_its_chats_again(life: Life) -> None:
    prompt = whole(life.path, SYSTEM + OTHER)
    engine = life.engine(idle_ttl=0.05)
    try:
        said(engine, prompt)
        until(lambda: not engine.load().resident)
        again = said(engine, prompt + TAIL)
    finally:
        engine.close(wait=20)
    memory = remembered(life.path, prompt, prompt + TAIL)
    assert (again.text, again.cached_tokens) == (memory.text, memory.cached_tokens)


def test_a_process_that_is_killed_loses_nothing_that_it_had_time_to_write(life: Life) -> None:
    prompt = whole(life.path, SYSTEM + OTHER)
    engine = ProcessEngine(LocalModel("m", path=life.path, threads=1, n_ctx=1024, session_dir=life.sessions))
    try:
        job, heard = job_of(prompt, 12)
        engine.submit(job)
        assert heard.text is not None
        until(lambda: len(life.files) >= heard.prompt_tokens // disk.BLOCK)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        until(lambda: engine.pid is None)
        job, heard = job_of(prompt + TAIL, 12)
        engine.submit(job)
        assert heard.text == remembered(life.path, prompt, prompt + TAIL).text
        assert heard.cached_tokens >= 256
    finally:
        engine.close(wait=20)


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [_cut, _flip])
def test_a_damaged_file_is_computed_again_and_replaced(
    life: Life, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    prompt = SYSTEM + OTHER
    text, count = life.said(prompt).text, len(life.files)
    for file in life.files:
        damage(file)
    again = life.said(prompt)
    assert (again.text, again.cached_tokens) == (text, 0)
    assert "is damaged" in caplog.text
    for file in life.files:  # removed when it was found out, or never looked at since
        if folder.Folder(life.files[0].parent).read(file.stem) is None:
            count -= 1
    assert life.said(prompt).cached_tokens >= disk.BLOCK


def test_a_state_that_llama_cpp_refuses_is_computed_again(
    life: Life, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undamaged on disk, and yet not what the model's memory looks like."""
    prompt = SYSTEM + OTHER
    text = life.said(prompt).text
    read = disk.Disk.read
    monkeypatch.setattr(disk.Disk, "read", lambda self, block: _shortened(read(self, block)))
    again = life.said(prompt)
    assert (again.text, again.cached_tokens) == (text, 0)
    assert "is not taken by llama.cpp" in caplog.text


def _shortened(state: State | None) -> State | None:
    return None if state is None else state[:-100]


def test_another_models_states_are_never_read(life: Life, tmp_path: Path) -> None:
    """Even if the other one differs in nothing but a number in the middle of its weights."""
    prompt = SYSTEM + OTHER
    life.said(prompt)
    data = bytearray(life.path.read_bytes())
    data[-1000] ^= 1
    (tmp_path / "other.gguf").write_bytes(data)
    shutil.copystat(life.path, tmp_path / "other.gguf")
    other = Life(tmp_path / "other.gguf", life.sessions)
    assert other.said(prompt).cached_tokens == 0
    assert other.said(prompt).cached_tokens >= 256
    assert life.said(prompt).cached_tokens >= 256


def test_a_full_folder_keeps_its_limit(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    life.said(SYSTEM + OTHER)
    size = life.files[0].stat().st_size
    limit = 6 * size
    monkeypatch.setattr(folder.Folder.__init__, "__kwdefaults__", {"limit": limit, "spare": 0})
    for number in range(4):
        life.said(f"{number} {SYSTEM}{OTHER}")
        assert sum(file.stat().st_size for file in life.files) <= limit


def test_a_disk_that_takes_nothing_costs_nothing_but_the_saving(
    life: Life, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folder.Folder.__init__, "__kwdefaults__", {"limit": 1 << 30, "spare": 1 << 60})
    engine = life.engine()
    try:
        assert said(engine, SYSTEM + OTHER).text == Life(life.path, None).said(SYSTEM + OTHER).text
        until(lambda: "cannot be saved" in caplog.text)
        assert said(engine, SYSTEM + OTHER).cached_tokens >= 256  # from memory
    finally:
        engine.close(wait=20)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_two_engines_use_one_folder_at_once(life: Life) -> None:
    prompts = [whole(life.path, f"{number} {SYSTEM}{OTHER}") for number in range(3)]
    engines = [life.engine() for _ in range(2)]

    def chat(engine: BatchingEngine) -> None:
        for prompt in prompts:
            said(engine, prompt)

    threads = [threading.Thread(target=chat, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in engines:
        engine.close(wait=20)
    for prompt in prompts:
        again, memory = life.said(prompt + TAIL), remembered(life.path, prompt, prompt + TAIL)
        assert again.text == memory.text
        assert again.cached_tokens == memory.cached_tokens >= 256
    assert {file.suffix for file in life.files} == {".state"}


def test_closing_leaves_no_thread_behind(life: Life) -> None:
    life.said(SYSTEM + OTHER)
    assert life.files
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("router-local")]
