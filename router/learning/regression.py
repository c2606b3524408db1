"""The regression behind a model's speed: three terms, exponential forgetting, relative errors.

Least squares on what the answers showed, and on a weak pull towards the profile's proportions, which decides
where the answers say nothing. No term is ever negative.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Regression", "Speeds"]

#: The pull towards the profile, in answers: at first, and how fast it fades.
PULL, PULL_FADE = 1.0, 0.9
#: The profile's level counts as so many answers at first; that fades as fast.
LEVEL = 0.5
#: The request by which two speeds are compared.
TYPICAL_IN, TYPICAL_OUT = 500.0, 150.0
#: Output tokens below which a decoding time tells little: the first chunks hold several.
FEW_TOKENS = 8.0
#: No time is taken for less, in seconds.
SHORTEST = 1e-6
#: How little of a small term the profile knows: a fifth of the base at the typical prompt.
UNKNOWN_SHARE = 0.2


class Speeds(NamedTuple):
    """Seconds to the first token of an empty prompt, per prompt token, and per output token."""

    base: float
    per_in: float
    per_out: float

    def first(self, tokens_in: float) -> float:
        """Seconds to the first token."""
        return self.base + tokens_in * self.per_in

    def total(self, tokens_in: float, tokens_out: float) -> float:
        """Seconds to the end."""
        return self.base + tokens_in * self.per_in + tokens_out * self.per_out

    def typical(self) -> float:
        """Seconds of the request by which speeds are compared."""
        return self.base + TYPICAL_IN * self.per_in + TYPICAL_OUT * self.per_out


class Regression:
    """What the answers of one model showed of its speed.

    Each row is divided by the time that was predicted for it, but for its scale: so all count alike, the
    slow ones and the fast ones, and the first ones too, when the profile was wrong by a factor.
    """

    __slots__ = ("_level", "_prior", "_sums", "_targets")

    def __init__(self, prior: Speeds) -> None:
        self._prior = prior
        self._sums = [0.0] * 6  # of products of the columns: 11 12 13 22 23 33
        self._targets = [0.0] * 3
        self._level = [0.0] * 4  # observed ÷ profile: sum and weight to the first token, and after it

    def forget(self, kept: float) -> None:
        """What was taken in so far counts for that share of itself."""
        self._sums = [kept * value for value in self._sums]
        self._targets = [kept * value for value in self._targets]
        self._level = [kept * value for value in self._level]

    def multiply(self, factor: float) -> None:
        """All that was taken in would now take so many times as long."""
        self._targets = [factor * value for value in self._targets]
        first, first_weight, rest, rest_weight = self._level
        self._level = [factor * first, first_weight, factor * rest, rest_weight]

    def take_total(self, speeds: Speeds, tokens_in: float, tokens_out: float, seconds: float) -> None:
        """An answer in one piece took so long."""
        scale = max(speeds.typical() / self._prior.typical(), 1e-9)
        size = speeds.total(tokens_in, tokens_out) / scale
        self._row((1.0 / size, tokens_in / size, tokens_out / size), seconds / size, 1.0)
        ratio, level = seconds / self._prior.total(tokens_in, tokens_out), self._level
        self._level = [level[0] + ratio, level[1] + 1.0, level[2] + ratio, level[3] + 1.0]

    def take_first(self, speeds: Speeds, tokens_in: float, seconds: float) -> None:
        """A first token took so long."""
        scale = speeds.first(TYPICAL_IN) / self._prior.first(TYPICAL_IN)
        size = max(speeds.first(tokens_in) / scale, SHORTEST)
        self._row((1.0 / size, tokens_in / size, 0.0), seconds / size, 1.0)
        self._level[0] += seconds / self._prior.first(tokens_in)
        self._level[1] += 1.0

    def take_rest(self, tokens_out: float, seconds: float) -> None:
        """So many tokens after the first took so long."""
        per_out = self._prior.per_out
        weight = tokens_out / (tokens_out + FEW_TOKENS)
        ratio = seconds / (tokens_out * per_out)
        self._row((0.0, 0.0, 1.0 / per_out), ratio, weight)
        self._level[2] += ratio * weight
        self._level[3] += weight

    def solve(self, answers: int, level: float, noise: float) -> Speeds:
        """The speeds that fit best.

        Args:
            answers: How many were taken in, forgotten ones included.
            level: How many times the profile's seconds the model takes, as far as other sources tell.
            noise: How little a row tells beside the profile: a ratio of variances. The pull that stays.
        """
        base, per_in, per_out = self._prior
        first, after = self._levels(answers, level)
        # How well the profile knows each term; of a small term of the sum it knows little.
        known = (base, per_in + UNKNOWN_SHARE * base / TYPICAL_IN, per_out)
        wanted = (base * first, per_in * first, per_out * after)
        pull = max(PULL * PULL_FADE**answers, min(noise, PULL))
        held = [pull / (one * one) for one in known]
        one, two, three, four, five, six = self._sums
        matrix = [[one, two, three], [two, four, five], [three, five, six]]
        targets = list(self._targets)
        for row in range(3):
            matrix[row][row] += held[row]
            targets[row] += held[row] * wanted[row]
        free = [0, 1, 2]
        while True:
            found = _solved(matrix, targets, free, held)
            negative = [place for place, value in zip(free, found, strict=True) if value < 0.0]
            if not negative:
                break
            free = [place for place in free if place not in negative]
        speeds = [0.0, 0.0, 0.0]
        for place, value in zip(free, found, strict=True):
            speeds[place] = value
        return Speeds(*speeds)

    def _levels(self, answers: int, level: float) -> tuple[float, float]:
        """How many times the profile's seconds the model takes: to the first token, and after it."""
        weight = LEVEL * PULL_FADE**answers
        first, first_weight, rest, rest_weight = self._level
        before = (first + weight * level) / (first_weight + weight) if first_weight else level
        after = (rest + weight * level) / (rest_weight + weight) if rest_weight else before
        return before, after

    def _row(self, x: tuple[float, float, float], target: float, weight: float) -> None:
        sums, targets = self._sums, self._targets
        one, two, three = x
        sums[0] += weight * one * one
        sums[1] += weight * one * two
        sums[2] += weight * one * three
        sums[3] += weight * two * two
        sums[4] += weight * two * three
        sums[5] += weight * three * three
        targets[0] += weight * one * target
        targets[1] += weight * two * target
        targets[2] += weight * three * target


def _solved(
    matrix: list[list[float]], targets: list[float], free: list[int], held: list[float]
) -> list[float]:
    """Solves the normal equations of the free terms.

    They are a matrix without negative eigenvalues plus the diagonal `held`, so no pivot is below its part of
    that; one that is came of rounding.
    """
    rows = [[matrix[row][column] for column in free] + [targets[row]] for row in free]
    for place, pivot in enumerate(rows):
        pivot[place] = max(pivot[place], held[free[place]])
        for other in rows[place + 1 :]:
            factor = other[place] / pivot[place]
            for column in range(place, len(pivot)):
                other[column] -= factor * pivot[column]
    found = [0.0] * len(rows)
    for place in range(len(rows) - 1, -1, -1):
        rest = sum(rows[place][column] * found[column] for column in range(place + 1, len(rows)))
        found[place] = (rows[place][-1] - rest) / rows[place][place]
    return found
