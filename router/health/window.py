"""What came of the calls of the last half minute, and when a share of them is more than chance."""

from __future__ import annotations

import math

__all__ = ["WINDOW", "Window", "exceeds"]

#: Seconds that a window looks back, and the parts in which it forgets.
WINDOW, PARTS = 30.0, 6
_PART = WINDOW / PARTS
#: Standard deviations by which a share must be above what is tolerated. With two breakers for each of many
#: models looked at with every call, chance gets thousands of tries.
CERTAINTY = 3.0


class Window:
    """Counts of calls, failures and slow answers over the last `WINDOW` seconds.

    It forgets in steps of a sixth, so that a call costs no more in a busy window than in an idle one.
    """

    __slots__ = ("_newest", "_parts", "calls", "failures", "slow")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.calls = self.failures = self.slow = 0
        self._parts: list[list[int]] = [[0, 0, 0] for _ in range(PARTS)]
        self._newest: int | None = None

    def add(self, now: float, *, failed: bool = False, slow: bool = False) -> None:
        """Counts a call that ended now."""
        self.forget(now)
        part = self._parts[(self._newest or 0) % PARTS]
        part[0] += 1
        part[1] += failed
        part[2] += slow
        self.calls += 1
        self.failures += failed
        self.slow += slow

    def forget(self, now: float) -> None:
        """Drops what is too old. A clock that runs backwards drops nothing."""
        at = int(now // _PART)
        if self._newest is None:
            self._newest = at
        steps = min(at - self._newest, PARTS)
        for step in range(1, steps + 1):
            part = self._parts[(self._newest + step) % PARTS]
            self.calls -= part[0]
            self.failures -= part[1]
            self.slow -= part[2]
            part[:] = (0, 0, 0)
        if steps > 0:
            # All parts were emptied if more time passed than they hold, so which is the newest is free.
            self._newest = at


def exceeds(bad: int, calls: int, tolerated: float) -> bool:
    """Whether a share of bad calls is above what is tolerated, and not by chance.

    The lower end of Wilson's interval for a share (E. B. Wilson, "Probable Inference", 1927) must be above
    it: seven of twenty calls are certainly more than one in ten, two of twenty are not.
    """
    if not bad:
        return False
    share, square = bad / calls, CERTAINTY * CERTAINTY
    middle = share + square / (2 * calls)
    off = CERTAINTY * math.sqrt(share * (1 - share) / calls + square / (4 * calls * calls))
    return (middle - off) / (1 + square / calls) > tolerated
