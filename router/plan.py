"""What the attempt machine may do for one request, and what it keeps of it. Data only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router.errors import ModelError

__all__ = ["Asked", "Plan", "Running"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the machine may do for one request.

    Attributes:
        names: The candidates' names, best first.
        stream: Whether an attempt is decided at its first visible token, or at its end.
        stop: Whether so many attempts are all that may be made; asked only after one failed or is late.
        attempt_timeout: Seconds for an attempt in one piece, from when the backend begins.
        ttft_timeout: Seconds to a stream's first visible token, from when the backend begins.
        deadline: When the request must be over; infinite without one.
        patience: Seconds that one wait between attempts must stay below when there is no deadline.
        hedge_after: Seconds after which a late candidate gets company; empty without hedging.
        wait: Seconds before the same candidate is asked again, from its attempts so far and its last error.
        may_retry: Takes one from the retry budget; False if it is empty. Asked before the same model is asked
            again, before a hedge, before a doubtful model is asked in place of another, and before a model
            that answers others is left at the last moment; not before any other model is tried: nothing may
            be lost while one works.
        doubtful: Whether a candidate failed and has not answered since, or shows no sign of life.
        shut: Whether a candidate that failed will not be let in at a time: then nobody waits for it.
        overdue: Seconds from when its backend began after which a candidate's attempt is given up if its
            model shows no sign of life and there is another to ask; infinite for never.
        last_call: Seconds from when its backend began after which only another candidate can answer before
            the deadline, from the seconds until then: the last moment to ask it. Infinite for never.
        last_wait: The same from the start of an attempt whose backend has not begun: it loads, or queues.
        silent: Whether a candidate's model has shown no sign of life since a time, to anybody; the last
            argument tells whether this is the last moment, at which a weaker sign will do.
        outpaced: Whether the next candidate is known to answer in the time that is left; asked at the last
            moment, of one whose model answers others.
        to_blame: Whether a candidate's attempt that began at a time has shown nothing for so long that its
            model is to blame, and not whoever ends the request now.
    """

    names: Sequence[str]
    stream: bool
    stop: Callable[[int], bool] = lambda _attempts: False
    attempt_timeout: float = 120.0
    ttft_timeout: float = 30.0
    deadline: float = math.inf
    patience: float = 120.0
    hedge_after: Sequence[float] = ()
    wait: Callable[[int, ModelError], float] = lambda _attempts, _error: 0.0
    may_retry: Callable[[], bool] = lambda: True
    doubtful: Callable[[int], bool] = lambda _candidate: False
    shut: Callable[[int, float], bool] = lambda _candidate, _at: False
    overdue: Callable[[int], float] = lambda _candidate: math.inf
    last_call: Callable[[int, float], float] = lambda _candidate, _left: math.inf
    last_wait: Callable[[int, float], float] = lambda _candidate, _left: math.inf
    silent: Callable[[int, float, bool], bool] = lambda _candidate, _since, _last: False
    outpaced: Callable[[int], bool] = lambda _candidate: False
    to_blame: Callable[[int, float], bool] = lambda _candidate, _began: False


@dataclass(slots=True)
class Asked:
    """What one candidate was asked in one request.

    Attributes:
        attempts: Those that were made; a refused one is not.
        free_at: When it may be asked again.
        barred: Whether it will not be asked again.
        paid: Whether the next was paid for already ...
        vouched: ... and whether that it may be asked at all was.
        sheds: Whether it had too much to do when it failed last.
    """

    attempts: int = 0
    free_at: float = -math.inf
    barred: bool = False
    paid: bool = False
    vouched: bool = False
    sheds: bool = False


@dataclass(slots=True)
class Running:
    """One attempt under way.

    Attributes:
        candidate: Whose.
        begun_at: When its backend began.
        overdue_at: When it is looked at whether its model is alive.
        last_call_at: When another candidate must be asked at the latest.
        looked_at: Since when a sign of life would count.
        hedged: Whether it had its chance of company.
    """

    candidate: int
    begun_at: float | None = None
    overdue_at: float = math.inf
    last_call_at: float = math.inf
    looked_at: float = -math.inf
    hedged: bool = False
