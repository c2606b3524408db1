"""Which idle models leave memory for another one. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

__all__ = ["HALF_LIFE", "Held", "Uses", "leavers", "occupied", "value"]

#: Seconds after which a request counts half as much for how often a model is used.
HALF_LIFE = 600.0


class Uses:
    """How often something is used lately: each use counts 1, and half as much every `HALF_LIFE` seconds."""

    def __init__(self) -> None:
        self._count = 0.0
        self._since = 0.0

    def note(self, now: float) -> None:
        """It is used; `now` is in seconds on a clock that never goes backwards."""
        self._count = self.count(now) + 1.0
        self._since = now

    def count(self, now: float) -> float:
        """The uses that still count."""
        return self._count * float(0.5 ** (max(0.0, now - self._since) / HALF_LIFE))


@dataclass(frozen=True, slots=True)
class Held:
    """Memory that one model holds.

    Attributes:
        own: Bytes that are its own.
        weights: Bytes of its weights.
        source: What the weights are: models of the same source hold them once, together.
        shelf: Of what is its own, bytes that it takes only by and by.
    """

    own: int
    weights: int
    source: Hashable
    shelf: int = 0


def occupied(held: Sequence[Held]) -> int:
    """Bytes of several models, weights that they share counted once."""
    weights = {one.source: one.weights for one in held}
    return sum(one.own for one in held) + sum(weights.values())


def value(uses: float, load_seconds: float, size: int) -> float:
    """What it is worth to keep a model: the seconds of loading that it saves, about, per byte.

    Args:
        uses: How often it is used lately (`Uses`): as often, about, it would have to be loaded again.
        load_seconds: How long that takes each time.
        size: Bytes that its leaving would free.
    """
    return uses * load_seconds / max(size, 1)


def leavers(staying: Sequence[Held], idle: Sequence[tuple[Held, float]], needed: int) -> list[int] | None:
    """Who leaves so that there is room: the least valuable first, and nobody in vain.

    Args:
        staying: What may not leave.
        idle: What may, each with its value.
        needed: Bytes to free.

    Returns:
        Places in `idle`; None if all of them together do not free so much.
    """
    everything = [one for one, _ in idle]

    def freed(gone: set[int]) -> int:
        left = [one for place, one in enumerate(everything) if place not in gone]
        return occupied([*staying, *everything]) - occupied([*staying, *left])

    order = sorted(range(len(idle)), key=lambda place: idle[place][1])
    chosen: list[int] = []
    for place in order:
        if freed(set(chosen)) >= needed:
            break
        chosen.append(place)
    if freed(set(chosen)) < needed:
        return None
    for place in reversed(chosen.copy()):  # whoever is worth more stays if those worth less suffice
        if freed(set(chosen) - {place}) >= needed:
            chosen.remove(place)
    return chosen
