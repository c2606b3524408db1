"""What a router that starts learns from its ledger: the newest attempts of earlier runs and other processes.

A model is known by its name; a name that means another model now starts with the old one's figures and soon
has its own. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from router.learning import Sample

if TYPE_CHECKING:
    from router.fleet import Fleet
    from router.ledger import PastAttempt

__all__ = ["remember"]

#: Attempts of one model and task that are taken in: older ones would be forgotten again at once.
MOST_EACH = 100
#: Failures that say something of the backend; others were the request's, or a setting's.
_BLAMED = frozenset(
    ("ModelConnectionError", "ModelHTTPError", "ModelProtocolError", "ModelTimeoutError", "ModelLoadError")
)


def remember(fleet: Fleet, past: Iterable[PastAttempt], *, now: float, wall: float) -> None:
    """Learns from attempts, oldest first.

    Args:
        fleet: Whose models learn.
        past: Attempts in the order of their recording.
        now: Seconds on the router's clock.
        wall: Unix time in seconds, at the same moment.
    """
    kept = [one for one in past if one.model in fleet.place]
    left: dict[tuple[str, str | None], int] = {}
    for one in kept:
        left[one.model, one.task] = left.get((one.model, one.task), 0) + 1
    for one in kept:
        left[one.model, one.task] -= 1
        if left[one.model, one.task] < MOST_EACH:
            # A clock that was set back makes the past look young, never like the future.
            _learn(fleet, one, now - max(wall - one.at, 0.0))


def _learn(fleet: Fleet, one: PastAttempt, at: float) -> None:
    learned, place = fleet.learned, fleet.place[one.model]
    if one.duration is None or (one.waited is None and fleet.profiles[place].local):
        return  # how much of it was a queue is not known
    waited = one.waited or 0.0
    worked = one.duration - waited
    if one.outcome == "failed":
        if one.error in _BLAMED:
            learned.failed(place, max(worked, 0.0), at + one.duration)
        return
    if worked <= 0.0:
        return
    sample = _sample(one, worked, at + one.duration)
    if one.outcome == "succeeded":
        learned.learn(place, sample)
    else:
        learned.took_longer(place, sample)


def _sample(one: PastAttempt, worked: float, at: float) -> Sample:
    """An attempt of the past as learning sees one that ends now."""
    reported = one.cost_source == "usage"
    ttft = None if one.ttft is None else one.ttft - (one.waited or 0.0)
    return Sample(
        task=one.task,
        counted_tokens=one.counted_tokens,
        prompt_tokens=one.prompt_tokens if reported else None,
        cached_tokens=(one.cached_tokens or 0) if reported else 0,
        completion_tokens=one.completion_tokens if reported else None,
        max_tokens=one.max_output_tokens,
        choices=one.choices,
        ttft=None if ttft is None or ttft <= 0.0 else ttft,
        duration=worked,
        beside=one.outstanding or 0,
        at=at,
    )
