"""How much of a prompt a backend has likely computed before, because it was sent there lately.

Hosts and local engines keep what they computed of recent prompts for a while; a prompt that begins like an
earlier one is billed at the cached price, and prefilled faster, as far as the two agree. So the cuts of what
was sent are remembered (numbers; no text is kept), and how much of a known beginning a backend really had is
learned from the usage that it reports.

The state is of one router and one process, under a lock; the clock is passed in, in seconds.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import chain
from typing import NamedTuple

from router.prefixes.cuts import Prompt, places_to_keep, places_to_look
from router.prefixes.hits import Hits, size_of
from router.prefixes.traces import Known, Trace, freshness, room, seen_share, witness

__all__ = ["PrefixMemory", "Shared"]

#: Cuts that are remembered at most, of all models together. The least recently sent go first.
MOST_CUTS = 4096

#: What was seen of a beginning itself counts so much, and what its model does on average the rest.
OWN = 2 / 3


class Shared(NamedTuple):
    """What a model is expected to have of a prompt.

    Attributes:
        share: The part of the prompt's tokens, 0..1, that is expected to be found cached; less than 1, since
            the last token at least is always computed.
        tokens: Tokens, by our own count, of the beginning that was sent to the model before.
    """

    share: float
    tokens: float


_NOBODY: Mapping[str, Trace] = {}


class PrefixMemory:
    """The prompts that a router's models were sent lately. Thread-safe.

    Args:
        prior: By a model's name, the part (0..1) of a known beginning that it is believed to have cached
            before anything was seen of it: 0.5 where the host's price list has a cached price, say, and 0 for
            an engine without a cache. Called under the lock: it must not call back.
        kept: By a model's name, the tokens that it keeps until it needs room for others, as an engine in this
            process does; None: it keeps them for some time, as hosts do. Called as `prior`.
    """

    def __init__(
        self, prior: Callable[[str], float], kept: Callable[[str], float | None] = lambda _name: None
    ) -> None:
        self._prior = prior
        self._kept = kept
        self._passed: dict[str, float] = {}  # tokens that a model which keeps some was seen to compute
        self._empty: set[str] = set()  # models that nothing is known to be kept of
        # A cut is never older than one that goes on from it (`_put_down` touches a prompt's first cut last):
        # where the first cut of a prompt is unknown, all of it is.
        self._cuts: OrderedDict[int, dict[str, Trace]] = OrderedDict()
        self._hits: dict[str, Hits] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many cuts are remembered."""
        return len(self._cuts)

    def expect(self, prompt: Prompt, now: float) -> dict[str, Shared]:
        """What each model is expected to have of a prompt, by name; only models with something.

        Empty for a prompt that begins like none before, and then it takes one look-up.
        """
        if not prompt.cuts or prompt.cuts[0] not in self._cuts:
            return {}
        expected: dict[str, Shared] = {}
        with self._lock:
            for model, known in self._known(prompt, now).items():
                tokens = min(known.tokens, prompt.total - 1)
                share = tokens / prompt.total * known.credit * self._hit(model, tokens, known.trace)
                if share > 0.0:
                    expected[model] = Shared(share, tokens)
        return expected

    def sent(self, model: str, prompt: Prompt, now: float) -> None:
        """An attempt was sent. Once per attempt that reached its backend, before `answered`."""
        if not prompt.cuts:
            return
        kept = places_to_keep(prompt.tokens)
        with self._lock:
            self._empty.discard(model)
            self._hits.setdefault(model, Hits())
            self._put_down(model, prompt, kept, now)
            while len(self._cuts) > MOST_CUTS:
                self._cuts.popitem(last=False)

    def answered(  # noqa: PLR0917 - the facts of one answer, in the order in which they come up
        self,
        model: str,
        prompt: Prompt,
        shared_tokens: float | None,
        cached_tokens: int,
        prompt_tokens: int | None,
        now: float,
        *,
        answer_tokens: int = 0,
    ) -> None:
        """An attempt was answered, and its usage says how much was cached.

        Args:
            model: The model's name; ignored if it was never `sent` anything, or forgotten since.
            prompt: What it was sent.
            shared_tokens: `Shared.tokens` at the decision; None: what was known when it was sent.
            cached_tokens: Prompt tokens that the backend had cached, by its own count.
            prompt_tokens: All prompt tokens, by its own count; None, for unknown, teaches nothing.
            now: Seconds.
            answer_tokens: Tokens of its answer, which take room where prompts are kept.
        """
        with self._lock:
            hits = self._hits.get(model)
            if hits is None or not prompt.cuts:
                return
            self._compute(model, answer_tokens)
            last = self._cuts.get(prompt.cuts[-1], _NOBODY).get(model)
            credit = 1.0
            if last is not None:
                last.at, last.passed = now, self._passed.get(model, 0.0)
                shared_tokens = last.shared if shared_tokens is None else shared_tokens
                credit = last.credit if last.shared else credit
            seen = seen_share(prompt, shared_tokens, cached_tokens, prompt_tokens)
            if seen is None or shared_tokens is None:
                return
            size = size_of(shared_tokens)
            average = hits.learn(size, seen, credit, self._believed(model))
            place = bisect_right(prompt.tokens, shared_tokens) - 1
            began = self._cuts.get(prompt.cuts[place], _NOBODY).get(model) if place >= 0 else None
            for trace in {began, last}:
                if trace is not None:
                    witness(trace, size, seen, credit, average)

    def forget(self, models: set[str]) -> None:
        """Drops what is known of models that were removed or declared anew."""
        with self._lock:
            for model in models:
                self._hits.pop(model, None)
                self._passed.pop(model, None)
            self._drop(models)

    def emptied(self, model: str) -> None:
        """A model left memory: of what it was sent nothing is cached any more. How well it caches is kept."""
        if model in self._empty:
            return
        with self._lock:
            self._empty.add(model)
            self._drop({model})

    def _drop(self, models: set[str]) -> None:
        for cut, traces in list(self._cuts.items()):
            for model in models:
                traces.pop(model, None)
            if not traces:
                del self._cuts[cut]

    def after_fork(self) -> None:
        """In a child process: a lock that another thread may have held is made anew."""
        self._lock = threading.Lock()

    def _known(self, prompt: Prompt, now: float) -> dict[str, Known]:
        """By model, the beginning that most is left of: the longest, unless a shorter one is much fresher."""
        found: dict[str, Known] = {}
        settled: set[str] = set()  # nothing shorter can be better
        cuts, remembered = prompt.cuts, self._cuts
        for place in places_to_look(prompt.tokens):
            traces = remembered.get(cuts[place])
            if traces is None:
                continue
            for model, trace in traces.items():
                if model in settled:
                    continue
                tokens = prompt.tokens[place]
                credit = self._credit(model, trace, tokens, now)
                known = found.get(model)
                if known is None or tokens * credit > known.tokens * known.credit:
                    found[model] = Known(tokens, credit, trace)
                if credit == 1.0:
                    settled.add(model)
            if len(settled) == len(self._hits):
                break
        return found

    def _put_down(self, model: str, prompt: Prompt, kept: set[int], now: float) -> None:
        """Remembers the cuts in `kept` and renews those known before, from the longest to the first."""
        known: Known | None = None
        new: list[Trace] = []
        old: list[Trace] = []
        for place in places_to_look(prompt.tokens):
            cut = prompt.cuts[place]
            traces = self._cuts.get(cut)
            if traces is None:
                if place not in kept:
                    continue
                traces = self._cuts[cut] = {}
            else:
                self._cuts.move_to_end(cut)
            trace = traces.get(model)
            if trace is None:
                traces[model] = trace = Trace(now)
                new.append(trace)
                continue
            tokens = prompt.tokens[place]
            credit = self._credit(model, trace, tokens, now)
            if tokens * credit > (known.tokens * known.credit if known else 0.0):
                known = Known(tokens, credit, trace)
            old.append(trace)
        self._compute(model, prompt.total - (known.tokens * known.credit if known else 0.0))
        passed = self._passed.get(model, 0.0)
        for trace in chain(old, new):
            trace.at, trace.passed = now, passed
        last = self._cuts[prompt.cuts[-1]][model]
        last.shared, last.credit = 0, 0.0
        if known is not None:
            last.shared, last.credit = known.tokens, known.credit
            for trace in new:
                trace.hit, trace.size = known.trace.hit, known.trace.size

    def _compute(self, model: str, tokens: float) -> None:
        """A model computes so many tokens, for which an engine of ours gives others up."""
        if self._kept(model) is not None:
            self._passed[model] = self._passed.get(model, 0.0) + tokens

    def _credit(self, model: str, trace: Trace, tokens: float, now: float) -> float:
        """What is left, 0..1, of a beginning of so many tokens."""
        kept = self._kept(model)
        if kept is None:
            return freshness(now - trace.at)
        return room(tokens, self._passed.get(model, 0.0) - trace.passed, kept)

    def _hit(self, model: str, tokens: float, trace: Trace) -> float:
        """The part of a fresh beginning of so many tokens that is expected to be cached."""
        size = size_of(tokens)
        average = self._hits[model].share(size, self._believed(model))
        hit = trace.hit
        # A longer beginning is cached more likely: what was missed of a shorter one says nothing of it.
        if hit is None or (size > trace.size and hit < average) or (size < trace.size and hit > average):
            return average
        return OWN * hit + (1.0 - OWN) * average

    def _believed(self, model: str) -> float:
        prior = self._prior(model)
        return min(max(prior, 0.0), 1.0) if math.isfinite(prior) else 0.0
