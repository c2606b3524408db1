"""What one step of a model computes. Pure: no model, no thread, no clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["BLOCK", "SEGMENT", "Lane", "Limits", "Pace", "begins_with", "plan_step"]

#: Tokens of a prompt from which on llama.cpp's flash attention takes a faster way through a CPU's kernels.
BLOCK = 64
#: Tokens that the class `Llama` computes at once: where a prompt is cut decides how it is rounded, and this
#: engine's answers are to be the same.
SEGMENT = 512

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
    def near(self) -> int:
        """Of these, those up to the end of the prompt's segment."""
        return min(self.pending, SEGMENT - self.computed % SEGMENT)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many tokens a step may compute.

    Attributes:
        mixed: Of all chats together.
        piece: Of prompts, while an answer is under way.
        block: Of one prompt in a step of its own; less than `BLOCK`: prompts get none.
    """

    mixed: int
    piece: int
    block: int = 0


def plan_step(lanes: Sequence[L], limits: Limits, turn: int = 0) -> list[tuple[L, int]]:
    """Which lanes go on in the next step, and by how many tokens each.

    There are two kinds of steps. A mixed one takes every lane that is at its answer on by one token, and
    gives what room is left to short prompts. A block is a step of one long prompt alone: so many tokens at
    once take a faster way through the kernels, which rounds by how they are grouped, and so nobody else is
    among them. The two kinds alternate while there is work for both.

    Short prompts that a mixed step has no room for have steps without answers, too, as far as a piece goes:
    chats that come together then begin, and end, nearly together, and few steps are for a few of them only.

    Args:
        lanes: At work, the oldest first.
        limits: How many tokens.
        turn: Counts the steps.
    """
    answers: list[L] = []
    prompts: list[L] = []
    for lane in lanes:
        pending = len(lane.tokens) - lane.computed  # as `pending`; this is asked of every lane in every step
        if pending == 1 and (lane.behind is None or not lane.waits):
            answers.append(lane)
        elif pending > 1 and not lane.waits:
            prompts.append(lane)
    if not prompts:  # nearly always
        return [(lane, 1) for lane in answers[: limits.mixed]]
    block = min(limits.block, limits.piece) if answers else limits.block
    long = [lane for lane in prompts if lane.near >= BLOCK] if block >= BLOCK else []
    short = [lane for lane in prompts if lane not in long]
    if long and (turn % 2 or not (answers or short)):
        return [_block(long, block, turn // 2)]
    if block >= BLOCK and not long and turn % (limits.piece // limits.mixed + 1):
        room = limits.mixed - len(answers)
        if sum(lane.near for lane in short) > room:
            return _mixed((), short, limits)
    return _mixed(answers, short, limits)


def _block(lanes: Sequence[L], most: int, turn: int) -> tuple[L, int]:
    """By turns the oldest and the one that is ready soonest; a segment's small rest goes along."""
    lane = lanes[0] if turn % 2 else min(lanes, key=lambda one: one.pending)
    count = most // BLOCK * BLOCK
    return lane, lane.near if lane.near < count + BLOCK else count


def _mixed(answers: Sequence[L], prompts: Sequence[L], limits: Limits) -> list[tuple[L, int]]:
    """Half of the room for prompts at least is the oldest's, then it is for the one that is ready soonest.

    So neither a long prompt blocks the short ones nor many short ones a long prompt.
    """
    plan = [(lane, 1) for lane in answers[: limits.mixed]]
    room = min(limits.mixed - len(plan), limits.piece) if plan else limits.mixed
    if not prompts or room <= 0:
        return plan
    shares = {id(prompts[0]): min((room + 1) // 2, prompts[0].near)}
    room -= shares[id(prompts[0])]
    for lane in sorted(prompts, key=lambda one: one.pending):
        more = min(room, lane.near - shares.get(id(lane), 0))
        if more <= 0:
            continue
        shares[id(lane)] = shares.get(id(lane), 0) + more
        room -= more
    return plan + [(lane, shares[id(lane)]) for lane in prompts if id(lane) in shares]


class Pace:
    """How much of a prompt to compute at once, by what was measured.

    Args:
        least: Tokens of a piece, however slow the model is.
        most: Tokens of a piece, however fast it is.
        first: Tokens of a piece before anything was measured: a large model takes minutes for `most`.
    """

    def __init__(self, *, least: int, most: int, first: int) -> None:
        self._least = least
        self._most = most
        self._first = first
        #: Seconds of one token; None: nothing was measured.
        self.seconds: float | None = None

    def took(self, tokens: int, seconds: float) -> None:
        """Notes how long a step took."""
        if tokens < self._least:  # reading the weights is most of it
            return
        each = seconds / tokens
        self.seconds = each if self.seconds is None else 0.8 * self.seconds + 0.2 * each

    def within(self, seconds: float) -> int:
        """Tokens of a prompt that take so long, about."""
        if not self.seconds:
            return self._first
        return max(self._least, min(self._most, int(seconds / self.seconds)))
