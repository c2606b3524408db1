"""What the attempt machine tells its driver to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from router.errors import ModelError

__all__ = ["Action", "Cancel", "Ending", "Fail", "Promote", "Start", "Succeed"]


@dataclass(frozen=True, slots=True)
class Start:
    """Call a candidate.

    Attributes:
        attempt: Its number.
        candidate: Whom to call.
        hedge: Whether another attempt goes on beside it.
        refund: What the retry budget gets back if it is answered: nothing if it did not pay, and nothing
            for a hedge. A retry that is answered pays for itself and for one in vain; but only for itself
            where the model had too much to do: more of them would not help.
    """

    attempt: int
    candidate: int
    hedge: bool = False
    refund: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop an attempt; its outcome does not matter any more. `error` says why, if it failed by that."""

    attempt: int
    error: ModelError | None = None


@dataclass(frozen=True, slots=True)
class Promote:
    """Hand this attempt's stream to the caller."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Succeed:
    """Hand this attempt's answer to the caller."""

    attempt: int


class Ending(Enum):
    """Why a request fails."""

    FAILED = "failed"
    DEADLINE = "deadline"
    REFUSED = "refused"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Fail:
    """Tell the caller that it did not work."""

    ending: Ending


Action = Start | Cancel | Promote | Succeed | Fail
