"""How much of the known beginnings of prompts a model really had cached: learned from its usage, by size.

Hosts cache from some length on (OpenAI: 1,024 tokens, then in blocks of 128; DeepSeek: 64), so beginnings are
told apart by the power of two that their tokens reach. What is known of one size bounds the others: a longer
beginning is at least as likely cached as a shorter one.
"""

from __future__ import annotations

__all__ = ["Hits", "size_of"]

#: The weight of what was believed before, in samples.
PRIOR_SAMPLES = 1.0
#: What was seen before weighs as much as so many samples at most, so that older ones fade.
MOST_WEIGHT = 9.0
#: "Prompt caching", OpenAI: prompts are cached from 1,024 tokens on. Azure, Anthropic and others say the same
#: or more. Below, a prior that is unsure counts less; one that is 0 or 1 (an engine of one's own) stays.
USUALLY_CACHED = 1024
LARGEST = 24


def size_of(tokens: float) -> int:
    """The bucket of so many tokens: 1 + log2, rounded down; 0 for less than one token."""
    return min(int(tokens).bit_length(), LARGEST)


class Hits:
    """What one model had cached, as a share (0..1) of what it was sent before. Not thread-safe."""

    __slots__ = ("_means", "_weights")

    def __init__(self) -> None:
        self._means: dict[int, float] = {}
        self._weights: dict[int, float] = {}

    def share(self, size: int, prior: float) -> float:
        """The share expected of a beginning of a size.

        Args:
            size: `size_of` its tokens.
            prior: What is believed where nothing of this size was seen, 0..1; sizes that were seen bound it.
        """
        mean = self._means.get(size)
        if mean is not None:
            return mean
        believed = prior if size >= size_of(USUALLY_CACHED) else prior * prior
        shorter = max((mean for seen, mean in self._means.items() if seen < size), default=0.0)
        longer = min((mean for seen, mean in self._means.items() if seen > size), default=1.0)
        return min(max(believed, shorter), longer)

    def learn(self, size: int, seen: float, credit: float, prior: float) -> float:
        """Takes in that a share `seen` was cached; returns what is expected now.

        Args:
            size: `size_of` the tokens that were known.
            seen: 0..1.
            credit: How much it tells, 0..1: little of a beginning that was sent long ago.
            prior: As for `share`.
        """
        mean = self.share(size, prior)
        weight = self._weights.get(size, PRIOR_SAMPLES) + credit
        mean += (seen - mean) * credit / weight
        self._means[size] = mean
        self._weights[size] = min(weight, MOST_WEIGHT)
        return mean
