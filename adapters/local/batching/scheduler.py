"""What one step of a model computes. Pure: no model, no thread, no clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["Lane", "Pace", "begins_with", "plan_step"]

#: Prompt tokens that must be saved for a chat to wait until another one has computed them.
_WORTH_WAITING = 16


@dataclass(slots=True, eq=False)
class Lane:
    """One sequence of tokens on its way through a model.

    Attributes:
        tokens: What is known of it: the prompt, then the answer so far.
        computed: How many of them, from the first, are in the model's memory. Once all are, there is a next
            token to draw: a lane always has at least one to compute.
        behind: Another lane that is about to compute the same beginning ...
        shared: ... and how long that beginning is, in tokens.
    """

    tokens: list[int]
    computed: int = 0
    behind: Lane | None = field(default=None, repr=False)
    shared: int = 0

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be drawn."""
        return len(self.tokens) - self.computed

    @property
    def waits(self) -> bool:
        """Whether it waits for another lane to compute what both begin with."""
        return self.behind is not None and self.behind.computed < self.shared


L = TypeVar("L", bound=Lane)


def begins_with(lane: Lane, held: int, others: Sequence[tuple[Lane, int]]) -> None:
    """Lets a lane that was not begun wait for another one, if that saves computing the same twice.

    Args:
        lane: Of which nothing was computed yet.
        held: Tokens of it that the model's memory holds already.
        others: Lanes under way, each with how many tokens it begins alike with.
    """
    lane.behind, lane.shared = None, 0
    for other, alike in others:
        alike = min(alike, len(lane.tokens) - 1)  # noqa: PLW2901 - the last token is computed in any case
        if other.computed < alike and alike - held >= _WORTH_WAITING and alike > lane.shared:
            lane.behind, lane.shared = other, alike


def plan_step(lanes: Sequence[L], most: int, piece: int) -> list[tuple[L, int]]:
    """Which lanes go on in the next step, and by how many tokens each.

    Every lane that is at its answer goes on by one. What room is left goes to prompts: half of it at least to
    the oldest, then to the one that is ready soonest, so that neither a long prompt blocks the short ones nor
    many short ones a long prompt.

    Args:
        lanes: At work, the oldest first.
        most: Tokens that one step may compute.
        piece: Tokens of prompts that it may compute while an answer is under way.
    """
    plan = [(lane, 1) for lane in lanes if lane.pending == 1 and not lane.waits][:most]
    room = min(most - len(plan), piece) if plan else most
    prompts = [lane for lane in lanes if lane.pending > 1 and not lane.waits]
    if not prompts or room <= 0:
        return plan
    shares = {id(prompts[0]): min((room + 1) // 2, prompts[0].pending)}
    room -= shares[id(prompts[0])]
    for lane in sorted(prompts, key=lambda one: one.pending):
        more = min(room, lane.pending - shares.get(id(lane), 0))
        if more <= 0:
            continue
        shares[id(lane)] = shares.get(id(lane), 0) + more
        room -= more
    return plan + [(lane, shares[id(lane)]) for lane in prompts if id(lane) in shares]


class Pace:
    """How much of a prompt to compute beside running answers, by what was measured.

    Args:
        patience: Seconds that a piece of a prompt may add to a step, about.
        least: Tokens of a piece, however slow the model is.
        most: Tokens of a piece, however fast it is.
    """

    def __init__(self, *, patience: float, least: int, most: int) -> None:
        self._patience = patience
        self._least = least
        self._most = most
        self._seconds: float | None = None

    def took(self, tokens: int, seconds: float) -> None:
        """Notes how long a step took."""
        if tokens < self._least:  # reading the weights is most of it
            return
        each = seconds / tokens
        self._seconds = each if self._seconds is None else 0.8 * self._seconds + 0.2 * each

    @property
    def piece(self) -> int:
        """Tokens."""
        if not self._seconds:
            return self._most
        return max(self._least, min(self._most, int(self._patience / self._seconds)))
