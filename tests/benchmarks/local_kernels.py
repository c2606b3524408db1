"""What llama.cpp allows, for `tests.benchmarks.local`: its kernels alone, without an engine, in several formats."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp.llama_cpp as c

from adapters.local.batching.tree import common_prefix
from adapters.local.context import NativeContext
from adapters.local.files import load_settings
from adapters.local.native import NativeModel, start_backend
from router.models import LocalModel
from tests.benchmarks.local_chats import N_CTX, TOKENS, p95, prompt

__all__ = ["FORMATS", "bare", "kernels", "requantised"]

#: What the file can be made into, and llama.cpp's numbers for it. Most files that people serve are in one of them.
FORMATS = {
    "Q8_0": c.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_K_M": c.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q4_0": c.LLAMA_FTYPE_MOSTLY_Q4_0,
    "F16": c.LLAMA_FTYPE_MOSTLY_F16,
}


def requantised(source: Path, name: str, folder: Path) -> Path:
    """The same model in another format. Its texts are worse than those of a file made from the full weights."""
    start_backend()
    params = c.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = FORMATS[name], True
    target = folder / f"{source.stem}-as-{name}.gguf"
    if c.llama_model_quantize(str(source).encode(), str(target).encode(), params):
        raise SystemExit(f"{source} cannot be made into {name}")
    return target


@contextmanager
def context_of(path: Path, threads: int) -> Iterator[tuple[NativeModel, NativeContext]]:
    """A model, and a context of 32 sequences to compute in."""
    settings = load_settings(LocalModel("smollm2", path=path, n_ctx=N_CTX, threads=threads))
    model = NativeModel(settings)
    context = NativeContext(model, settings, cells=N_CTX, sequences=32)
    try:
        yield model, context
    finally:
        context.close()
        model.close()


def kernels(path: Path, threads: int) -> None:
    """What llama.cpp alone takes for so many chats' next tokens: no engine can be faster."""
    taken: dict[int, float] = {}
    with context_of(path, threads) as (_, context):
        for rows in (1, 2, 4, 8, 16, 32):
            context.clear()
            seconds = []
            for position in range(12):
                for sequence in range(rows):
                    context.put(sequence, [100 + sequence], position, output=True)
                began = time.perf_counter()
                context.compute()
                seconds.append(time.perf_counter() - began)
            taken[rows] = statistics.median(seconds[2:])
    print("llama_decode alone: " + ", ".join(
        f"{rows} rows {1000 * each:.1f} ms ({rows * taken[1] / each:.2f}x the tokens/s of 1)"
        for rows, each in taken.items()))  # fmt: skip


def bare(path: Path, threads: int, chats: int) -> tuple[float, float]:
    """Tokens/s and p95 time to first token of a loop that knows everything before.

    It reads the common beginning once, all the rest in one call, and then steps with all chats at once; there
    is no queue, no thread, no text and nobody to hand it to.
    """
    with context_of(path, threads) as (model, context):
        prompts = [model.tokenize(prompt(number)) for number in range(chats)]
        shared = common_prefix(prompts[0], prompts[1])
        context.trial()
        began, rows, firsts = time.perf_counter(), [0] * chats, [0.0] * chats
        rows[0] = context.put(0, prompts[0], 0, output=True)
        context.compute()
        latest = [int(context.logits(rows[0]).argmax())]
        firsts[0] = time.perf_counter() - began
        for number in range(1, chats):
            context.share(0, number, 0, shared)
            rows[number] = context.put(number, prompts[number][shared:], shared, output=True)
        context.compute()
        latest += [int(context.logits(row).argmax()) for row in rows[1:]]
        firsts[1:] = [time.perf_counter() - began] * (chats - 1)
        for step in range(TOKENS - 1):
            for number, tokens in enumerate(prompts):
                rows[number] = context.put(number, [latest[number]], len(tokens) + step, output=True)
            context.compute()
            latest = [int(context.logits(row).argmax()) for row in rows]
        return chats * TOKENS / (time.perf_counter() - began), p95(firsts)
