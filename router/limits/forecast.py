"""How long a request will wait for its turn, given what was sent and who is ahead of it. Pure."""

from __future__ import annotations

from router.limits.window import WINDOW, Window

__all__ = ["places_wait", "requests_wait", "tokens_wait"]


def requests_wait(window: Window, limit: int, ahead: int, now: float) -> float:
    """Seconds until a minute's requests have room for one with so many others before it.

    They go as those before them leave the window, and the pattern comes back every minute.
    """
    minutes, place = divmod(ahead, limit)
    excess = place + 1 + min(window.requests, limit) - limit
    return minutes * WINDOW + (window.emptier_at(_behind(excess, window.requests, limit), 0, now) - now)


def tokens_wait(window: Window, limit: int, ahead: int, tokens: int, now: float) -> float:
    """The same for a minute's tokens. What is more than the limit waits for an empty window."""
    tokens = min(tokens, limit)
    minutes, rest = divmod(ahead + tokens - 1, limit)
    excess = rest + 1 + min(window.tokens, limit) - limit
    return minutes * WINDOW + (window.emptier_at(0, _behind(excess, window.tokens, limit), now) - now)


def places_wait(running: int, limit: int, ahead: int, service: float) -> float:
    """Seconds until one of so many places is free for a request with so many others before it.

    When a place will be free is not known: they are taken to come free evenly.
    """
    behind = running + ahead + 1 - limit
    return behind * service / limit if behind > 0 else 0.0


def _behind(excess: int, sent: int, limit: int) -> int:
    """What must leave the window: also what was sent beyond a limit that was lowered since."""
    return excess + max(sent - limit, 0) if excess > 0 else 0
