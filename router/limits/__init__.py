"""The limits that a model declares, and the queue of those who wait for their turn.

`window` counts what was sent in the last minute, `belief` doubts what is declared after a refusal, `counts`
puts both together, `line` adds the queue, `hall` lets lines share limits, `limiter` is a model's line with
what its backend says, `queues` finds the line of a request, `waiting` lets a task await its turn, and `store`
is what several processes share. Only `waiting` knows of event loops; everywhere else the clock is passed in.
"""

from router.limits.limiter import MOST_WAITING, Limiter
from router.limits.queues import Queues
from router.limits.seats import Seat
from router.limits.store import Ask, Limits, LimitStore
from router.limits.window import WINDOW

__all__ = ["MOST_WAITING", "WINDOW", "Ask", "LimitStore", "Limiter", "Limits", "Queues", "Seat"]
