"""How many threads to compute with: measured once, with the first model that is loaded (see `cores`).

More threads are not always faster: generating waits for memory, a second thread on a core only slows the
first, slow cores hold up fast ones, and a container may be allowed less than the machine has. What may be
used is read from the system; what of it is best is measured with a few steps, and kept for the process.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from adapters.local.context import CPU_ROWS, DecodeError, NativeContext
from adapters.local.cores import Machine, machine
from adapters.local.turns import TURN

__all__ = ["THREADS", "Threads", "candidates", "fastest", "tune"]

#: Seconds that measuring may take in all; a step that has begun is ended.
LIMIT = 0.5
#: Seconds that it may take even if the model was loaded at once, and the share of its loading on top.
LEAST_LIMIT, SHARE = 0.1, 0.1
#: How often each candidate is measured at most.
ROUNDS = 5
#: Seconds of a step from which it tells something about other models, too.
TELLING = 1e-3
#: The share of its threads' time that a step gets if nobody else computes on their cores.
ALONE = 0.9
#: Fewer threads must take less than this share of the time of more: noise must not cost cores.
CLEARLY = 0.92


def candidates(here: Machine) -> tuple[int, ...]:
    """Thread counts worth measuring, the largest first."""
    most = here.most
    whole = int(min(here.quota, most))  # a part of a core is a core that stops now and then
    counts = {most, whole, min(here.fast, most), (most + 1) // 2, 1}
    return tuple(sorted((count for count in counts if count >= 1), reverse=True))


def fastest(took: Mapping[int, Sequence[float]]) -> int:
    """The best thread count by what steps took, in seconds, with each; more threads unless fewer are better.

    Raises:
        ValueError: if nothing was measured.
    """
    # Others only ever make a step slower: the quicker half of what was seen is the machine's own doing.
    typical = {count: _quicker_half(times) for count, times in took.items() if times}
    if not typical:
        raise ValueError("nothing was measured")
    best, *fewer = sorted(typical, reverse=True)
    for count in fewer:
        if typical[count] < CLEARLY * typical[best]:
            best = count
    return best


def _quicker_half(times: Sequence[float]) -> float:
    half = sorted(times)[: (len(times) + 1) // 2]
    return sum(half) / len(half)


class Threads:
    """The thread count of this process's local models, once it is known. Thread-safe.

    Args:
        here: Reads what the process may compute with.
        clock: Seconds.
    """

    def __init__(
        self, here: Callable[[], Machine] | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._here = machine if here is None else here
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: tuple[int, ...] = ()
        self._known: int | None = None

    def guess(self) -> int:
        """The count to load a model with: the measured one, or else the most that can be of use."""
        return self._known or self._candidates()[0]

    def measure(self, step: Callable[[int], float], *, limit: float = LIMIT) -> int:
        """The best count for a model; measured if it is not known yet.

        Candidates take turns, so that what else happens on the machine meets them alike. Where steps are so
        slow that not every candidate can be measured in time, the largest one is used, and the next model is
        measured. So it is after a tiny one, for which fewer threads are better than for any other. While one
        model is measured, others are not.

        Args:
            step: Computes something with a number of threads; returns the seconds that it took, or infinity
                if somebody else computed on the same cores meanwhile: then it tells nothing.
            limit: Seconds to spend at most, about: a step that has begun is ended.
        """
        counts = self._candidates()
        if self._known is not None or not self._lock.acquire(blocking=False):
            return self.guess()
        try:
            took = self._measured(counts, step, limit)
        finally:
            self._lock.release()
        if not all(took.values()):
            return counts[0]
        best = fastest(took)
        if min(took[counts[0]]) >= TELLING:
            self._known = best
        return best

    def _candidates(self) -> tuple[int, ...]:
        if not self._counts:
            self._counts = candidates(self._here())
            if len(self._counts) == 1:
                self._known = self._counts[0]
        return self._counts

    def _measured(
        self, counts: Sequence[int], step: Callable[[int], float], limit: float
    ) -> dict[int, list[float]]:
        """What steps took with each count, as far as there was time."""
        end = self._clock() + limit
        step(counts[0])  # the first reads the weights, and shows how fast a disk is
        took: dict[int, list[float]] = {count: [] for count in counts}
        for turn in range(ROUNDS):
            for count in counts if turn % 2 == 0 else reversed(counts):
                longest = max((times[-1] for times in took.values() if times), default=0.0)
                if self._clock() + longest > end:
                    return took
                seconds = step(count)
                if seconds < math.inf:
                    took[count].append(seconds)
        return took


#: This process's.
THREADS = Threads()


def tune(context: NativeContext, *, loading: float) -> int:
    """Finds out how many threads are best, if that is not known yet, and has a new context use them.

    For the thread that owns the context, and before it holds anything.

    Args:
        context: What to measure with.
        loading: Seconds that loading the model took: measuring must not make it much longer.

    Returns:
        The count.
    """

    def step(count: int) -> float:
        context.use_threads(count)
        with TURN:  # one step each, as for everybody else's
            began, worked = time.perf_counter(), time.process_time()
            context.trial()
            took, worked = time.perf_counter() - began, time.process_time() - worked
        # llama.cpp's threads wait for each other without sleeping: alone they are at work all the time.
        return took if worked >= ALONE * count * took else math.inf

    best = THREADS.guess()
    if context.rows == CPU_ROWS:
        with suppress(DecodeError):  # it is being closed, or is broken: the first request says which
            best = THREADS.measure(step, limit=min(LIMIT, LEAST_LIMIT + SHARE * loading))
    context.use_threads(best)
    return best
