"""The local engine beside `llama_cpp.Llama` and llama.cpp's own server, for `tests.benchmarks.local`."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from adapters.local.batching.tree import common_prefix
from tests.adapters.local.batching.kit import Greedy, engine_of, job_of
from tests.benchmarks.local_chats import (
    CHATS,
    N_CTX,
    TOKENS,
    at_once,
    messages,
    p95,
    prompt,
    warmed,
)
from tests.benchmarks.local_kernels import bare

__all__ = ["beside_the_server", "side_by_side", "texts"]

T = TypeVar("T")


async def ours(path: Path, threads: int, chats: int) -> tuple[float, float]:
    """The engine, loaded and empty."""
    adapter = await warmed(path, threads)
    try:
        return await at_once(adapter, chats)
    finally:
        await adapter.aclose()


def apart(work: Callable[[], T]) -> T:
    """Works on a thread of its own.

    The threads that llama.cpp computes with belong to the thread that asks, and end with it. With more of them
    than cores they wait for each other in another way, which is slower: what one side leaves behind must not
    be there while the other one is measured.
    """
    done: list[T] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    thread.join()
    return done[0]


def llama_of(path: Path, threads: int) -> Any:
    """A fresh `llama_cpp.Llama`."""
    from llama_cpp import Llama

    return Llama(
        str(path),
        n_ctx=N_CTX,
        n_threads=threads,
        n_threads_batch=threads,
        flash_attn=True,
        verbose=False,
    )


def llamas(path: Path, threads: int, chats: int) -> tuple[float, float]:
    """`Llama`, one after the other, with what it caches by itself: the last chat's beginning."""
    llama = llama_of(path, threads)
    try:
        llama.create_chat_completion(messages=[{"role": "user", "content": "hi"}], max_tokens=1)
        llama.reset()
        began, firsts, count = time.perf_counter(), [], 0
        for number in range(chats):
            first = 0.0
            stream: Any = llama.create_chat_completion(
                messages=messages(number),
                max_tokens=TOKENS,
                temperature=0,
                stream=True,
            )
            for chunk in stream:
                if chunk["choices"][0]["delta"].get("content"):
                    first = first or time.perf_counter() - began
                    count += 1
            firsts.append(first)
        return count / (time.perf_counter() - began), p95(firsts)
    finally:
        llama.close()


def side_by_side(path: Path, threads: int, rounds: int, chats: int) -> None:
    """Prints both, and their ratios; of several chats, also what a loop without any engine reaches."""
    runs = []
    for _ in range(rounds):
        mine, theirs = asyncio.run(ours(path, threads, chats)), apart(lambda: llamas(path, threads, chats))
        alone = apart(lambda: bare(path, threads, chats)) if chats > 1 else None
        runs.append((mine, theirs, alone))
        print(f"  engine {mine[0]:6.1f} tokens/s, p95 first {mine[1]:5.2f} s | "
              f"Llama {theirs[0]:6.1f} tokens/s, p95 first {theirs[1]:5.2f} s")  # fmt: skip
    speed = statistics.median(mine[0] / theirs[0] for mine, theirs, _ in runs)
    first = statistics.median(mine[1] / theirs[1] for mine, theirs, _ in runs)
    print(f"{chats} chats: {speed:.2f}x the tokens/s of Llama one at a time, p95 first token {first:.2f}x")
    loops = [(alone[0] / theirs[0], alone[1] / theirs[1]) for _, theirs, alone in runs if alone is not None]
    if loops:
        speed, first = (statistics.median(ratios) for ratios in zip(*loops, strict=True))
        print(f"  a bare loop around llama_decode, without an engine: {speed:.2f}x, {first:.2f}x")


def beside_the_server(path: Path, python: str | None, threads: int, rounds: int) -> None:
    """Prints the engine's tokens/s beside those of llama.cpp's own server, in each of its configurations."""
    if python is None:
        print("llama.cpp's server: not compared; `--server PYTHON` names an interpreter that has xllamacpp")
        return
    runs: list[tuple[tuple[float, float], dict[str, tuple[float, float]]]] = []
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "requests.json"
        chats = [messages(number) for number in range(CHATS)]
        model = {"model": str(path), "slots": CHATS, "n_ctx": CHATS * 1024}
        asked.write_text(json.dumps({**model, "threads": threads, "tokens": TOKENS, "chats": chats}))
        command = [python, str(Path(__file__).with_name("local_server.py")), str(asked)]
        for _ in range(rounds):
            mine = asyncio.run(ours(path, threads, CHATS))
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            theirs = {
                "one memory for all" if one["unified"] else "a memory for each": (
                    one["rate"],
                    p95(one["firsts"]),
                )
                for one in found
            }
            runs.append((mine, theirs))
    for kind in runs[0][1]:
        speed = statistics.median(mine[0] / theirs[kind][0] for mine, theirs in runs)
        first = statistics.median(mine[1] / theirs[kind][1] for mine, theirs in runs)
        rate = statistics.median(theirs[kind][0] for _, theirs in runs)
        print(f"{CHATS} chats: {speed:.2f}x the tokens/s of llama.cpp's server, {kind} ({rate:.1f}), "
              f"p95 first token {first:.2f}x")  # fmt: skip


def texts(path: Path, threads: int) -> None:
    """How many greedy texts equal `Llama`'s and those alone, and how near the others' first tokens are."""
    prompts = [prompt(number) for number in range(CHATS)]
    equal = 0
    for one in prompts:
        llama = llama_of(path, threads)
        theirs: Any = llama.create_completion(one, max_tokens=TOKENS, temperature=0)
        llama.close()
        ((mine,),) = said(path, [[one]], threads)
        equal += b"".join(mine) == theirs["choices"][0]["text"].encode()
    print(f"one chat alone: {equal} of {CHATS} greedy texts of {TOKENS} tokens equal Llama's")
    later = [prompt(number) for number in range(100, 100 + CHATS)]
    together, *turns = said(path, [prompts, *([one] for one in later)], threads)
    alone = Greedy(path, N_CTX, threads=threads)
    print(f"{CHATS} at once: {compared(alone, prompts, together)}")
    print(f"{CHATS} more of the same engine, one after the other: "
          f"{compared(alone, later, [pieces for (pieces,) in turns])}")  # fmt: skip
    alone.close()


def compared(alone: Greedy, prompts: list[str], answers: list[list[bytes]]) -> str:
    """How many answers are those of an empty memory; where the others part, and how near the two tokens are."""
    gaps = []
    for one, pieces in zip(prompts, answers, strict=True):
        expected = alone.pieces(one, TOKENS)
        if pieces != expected:
            place = common_prefix(pieces, expected)
            gaps.append((place, alone.gap(one, place, pieces[place] if place < len(pieces) else None)))
    parted = ", ".join(f"token {place} ({gap:.3f} logits)" for place, gap in sorted(gaps))
    return f"{len(prompts) - len(gaps)} equal the text alone; the others part at {parted or 'no token'}"


def said(path: Path, waves: list[list[str]], threads: int) -> list[list[list[bytes]]]:
    """The pieces of the answers of one engine to prompts that come in waves, each when the one before is over."""
    engine = engine_of(path, n_ctx=N_CTX, threads=threads)
    told = []
    try:
        for prompts in waves:
            jobs = [job_of(one, TOKENS) for one in prompts]
            for job, _ in jobs:
                engine.submit(job)
            told.append([heard.pieces for _, heard in jobs if heard.text is not None])
    finally:
        engine.close()
    return told
