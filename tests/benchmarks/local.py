"""The local engine beside `llama_cpp.Llama` used one chat at a time, on SmolLM2-135M, as ratios in one run.

`python -m tests.benchmarks.local` prints: 8 chats at once with one 200-token system prompt, 64 tokens each
(tokens/s, p95 time to first token); one chat alone; the next turn of a 1,000-token conversation; 1 to 32 chats;
how the texts compare; two models at once; what a step consists of, and what the kernels alone allow; the first
two of the same model in other formats; memory over many short requests. With `--server PYTHON`, an interpreter
that has xllamacpp, also llama.cpp's own server on the same chats. Rounds are taken in turn and medians printed:
on a shared machine one run says little.

The packaged file is a Q4_1, for which llama.cpp has no kernel that multiplies by several rows at once: 8 chats
cost it nearly 8 times as much as one. `formats` shows the ones that have such kernels; `--format` runs any part
with one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.local_beside import beside_the_server, side_by_side, texts
from tests.benchmarks.local_chats import CHATS
from tests.benchmarks.local_kernels import FORMATS, kernels, requantised
from tests.benchmarks.local_steps import memory, next_turn, scaling, steps, two_models
from tests.helpers import smollm2


def formats(folder: Path, threads: int, rounds: int) -> None:
    """The chats of `together` and `alone`, of the same model in other formats."""
    for name in FORMATS:
        path = requantised(smollm2(), name, folder)
        print(f"as {name}:")
        side_by_side(path, threads, rounds, CHATS)
        side_by_side(path, threads, rounds, 1)
        path.unlink()


def main() -> None:
    """Prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--server", metavar="PYTHON", help="an interpreter that has xllamacpp")
    parser.add_argument("--format", choices=FORMATS, help="make the file into this first")
    parser.add_argument("--only", help="one part, by its name in this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = requantised(smollm2(), given.format, Path(folder)) if given.format else smollm2()
        parts: dict[str, Callable[[], None]] = {
            "together": lambda: side_by_side(path, given.threads, given.rounds, CHATS),
            "server": lambda: beside_the_server(path, given.server, given.threads, given.rounds),
            "alone": lambda: side_by_side(path, given.threads, 3 * given.rounds, 1),
            "turn": lambda: asyncio.run(next_turn(path, given.threads)),
            "scaling": lambda: asyncio.run(scaling(path, given.threads)),
            "texts": lambda: texts(path, given.threads),
            "kernels": lambda: kernels(path, given.threads),
            "two": lambda: asyncio.run(two_models(path, given.threads)),
            "steps": lambda: asyncio.run(steps(path, given.threads)),
            "formats": lambda: formats(Path(folder), given.threads, given.rounds),
            "memory": lambda: asyncio.run(memory(given.requests)),
        }
        for name, part in parts.items():
            if given.only in (None, name):
                part()


if __name__ == "__main__":
    main()
