"""The log-normal distribution, cut off at a limit or not. Pure formulas.

If log X is normal with mean m and standard deviation s, then X has the mean a = exp(m + s²/2), and the
squared coefficient of variation exp(s²) - 1. Johnson, Kotz, Balakrishnan, "Continuous Univariate
Distributions", vol. 1, chapter 14, has all that stands here.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

__all__ = ["above", "below", "capped", "capped_spread", "quantile", "sum_quantile", "surprise", "z_of"]

_ROOT_2 = math.sqrt(2.0)
_ROOT_2_PI = math.sqrt(2.0 * math.pi)
#: Beyond so many standard deviations a tail is nothing.
_FAR = 8.0
_NORMAL = NormalDist()
#: Probabilities whose quantile is remembered. A policy has one; those of a model that fails now and then
#: change with every request, and must not add up.
_MOST_KEPT = 256


@lru_cache(_MOST_KEPT)
def z_of(probability: float) -> float:
    """The quantile of the standard normal distribution."""
    return _NORMAL.inv_cdf(probability)


def below(z: float) -> float:
    """P(Z ≤ z) of a standard normal Z."""
    return 0.5 * math.erfc(-z / _ROOT_2)


def surprise(ratio: float, spread: float) -> float:
    """-log P(X ≥ ratio × median) of a log-normal X: how unlikely it is that it takes as long, or longer."""
    if ratio <= 0.0:
        return 0.0
    z = min(math.log(ratio) / spread, _FAR) if spread > 0.0 else math.copysign(_FAR, ratio - 1.0)
    return -math.log(below(-z))


def capped(mean: float, spread: float, limit: float) -> float:
    """E[min(X, limit)] of a log-normal X of this mean; `spread` is the standard deviation of log X."""
    if spread <= 0.0 or mean <= 0.0:
        return min(mean, limit)
    z = math.log(limit / mean) / spread + 0.5 * spread
    if z > _FAR:
        return mean
    return mean * below(z - spread) + limit * below(-z)


def capped_spread(mean: float, spread: float, limit: float) -> float:
    """The standard deviation of the logarithm that fits min(X, limit)'s mean and variance."""
    if spread <= 0.0 or mean <= 0.0:
        return 0.0
    z = math.log(limit / mean) / spread + 0.5 * spread
    if z > _FAR:
        return spread
    first = mean * below(z - spread) + limit * below(-z)
    second = mean * mean * math.exp(spread * spread) * below(z - 2 * spread) + limit * limit * below(-z)
    return math.sqrt(math.log(max(second / (first * first), 1.0)))


def above(log_mean: float, spread: float, limit: float) -> tuple[float, float, float]:
    """What X is expected to be where all that is known is X ≥ limit.

    Returns:
        E[log X], the variance of log X, and E[X], all given X ≥ limit.
    """
    z = (math.log(limit) - log_mean) / spread
    tail = below(-z)
    if tail < 1e-12:  # noqa: PLR2004 - the limit is far out: what is above it is hardly above it
        return math.log(limit), 0.0, limit
    hazard = math.exp(-0.5 * z * z) / _ROOT_2_PI / tail
    log = log_mean + spread * hazard
    variance = spread * spread * max(1.0 + z * hazard - hazard * hazard, 0.0)
    mean = math.exp(log_mean + 0.5 * spread * spread) * below(spread - z) / tail
    return log, variance, max(mean, limit)


def quantile(mean: float, spread: float, z: float) -> float:
    """What X stays below with the probability that `z` stands for; `mean` is E[X]."""
    return mean * math.exp(z * spread - 0.5 * spread * spread)


def sum_quantile(parts: tuple[tuple[float, float], ...], common: float, z: float) -> float:
    """The quantile of a sum of log-normals that are also multiplied by one log-normal factor of mean 1.

    By fitting the sum's mean and variance (L. F. Fenton, "The Sum of Log-Normal Probability Distributions",
    IRE Transactions on Communications Systems 8, 1960).

    Args:
        parts: Mean and spread of each.
        common: The spread of the factor.
        z: Stands for the probability.
    """
    total = sum(mean for mean, _ in parts)
    if total <= 0.0:
        return 0.0
    variance = sum(mean * mean * math.expm1(spread * spread) for mean, spread in parts if spread)
    fitted = math.sqrt(math.log1p(variance / (total * total)) + common * common)
    return quantile(total, fitted, z)
