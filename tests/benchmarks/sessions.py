"""The next turn of a 1,000-token conversation after a restart: restored from disk beside computed again.

`python -m tests.benchmarks.sessions` prints the time to the first token of both, of the turn while the
conversation is still in memory, and what is on disk. Rounds are taken in turn and medians printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from adapters.local.batching import BatchingEngine
from router.models import LocalModel
from tests.adapters.local.batching.kit import Heard, job_of
from tests.adapters.local.kit import until
from tests.helpers import smollm2

FACTS = "".join(
    f"Item {n}: the price of thing number {n * 7 % 13} is {n * 31 % 97} dollars. " for n in range(53)
)
FIRST = f"<|im_start|>user\n{FACTS}What is the cheapest thing?<|im_end|>\n<|im_start|>assistant\n"
NEXT = "<|im_end|>\n<|im_start|>user\nAnd the next one?<|im_end|>\n<|im_start|>assistant\n"


def engine_of(sessions: Path | None) -> BatchingEngine:
    """A fresh engine, loaded."""
    engine = BatchingEngine(LocalModel("smollm2", path=smollm2(), n_ctx=4096, session_dir=sessions))
    engine.open(lambda _outcome: None)
    until(lambda: engine.load().resident)
    return engine


def asked(engine: BatchingEngine, prompt: str) -> tuple[float, Heard]:
    """Seconds to the first token, and the answer."""
    job, heard = job_of(prompt, 12)
    began = time.perf_counter()
    engine.submit(job)
    until(lambda: bool(heard.pieces), 120)
    took = time.perf_counter() - began
    assert heard.text is not None
    return took, heard


def after_restart(sessions: Path | None, prompt: str) -> tuple[float, Heard]:
    """The same of an engine that has just been loaded."""
    engine = engine_of(sessions)
    try:
        return asked(engine, prompt)
    finally:
        engine.close(wait=20)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {"computed": [], "in memory": [], "restored": []}
    same = 0
    with tempfile.TemporaryDirectory() as folder:
        sessions = Path(folder) / "sessions"
        engine = engine_of(sessions)
        _, first = asked(engine, FIRST)
        began = time.perf_counter()
        engine.close(wait=20)
        closing = time.perf_counter() - began
        files = [file.stat().st_size for file in sessions.iterdir()]
        prompt = FIRST + first.text.decode() + NEXT
        for _ in range(rounds):
            took, computed = after_restart(None, prompt)
            times["computed"].append(took)
            took, restored = after_restart(sessions, prompt)
            times["restored"].append(took)
            same += computed.text == restored.text
            engine = engine_of(None)
            asked(engine, FIRST)
            times["in memory"].append(asked(engine, prompt)[0])
            engine.close(wait=20)
    median = {name: statistics.median(found) for name, found in times.items()}
    print(f"the next turn: {restored.prompt_tokens} tokens, {restored.cached_tokens} of them from disk")
    for name, found in median.items():
        print(
            f"  {name:<10} {found:7.3f} s to the first token, {found / median['computed']:5.3f} of computed"
        )
    kept = restored.cached_tokens * len(files) // max(1, len(files))
    print(
        f"on disk: {len(files)} files, {sum(files) / 1e6:.1f} MB, {sum(files) / kept / 1e3:.1f} KB per token"
    )
    print(f"closing after the first turn: {closing:.3f} s")
    print(f"the same text: {same} of {rounds}")


if __name__ == "__main__":
    main()
