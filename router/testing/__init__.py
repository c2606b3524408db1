"""Fakes, a clock, contract checks and a loopback server, for the tests of apps and of this library.

`no_network` and `manual_clock` are fixtures; pytest finds them by itself once the library is installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.testing.clock import Clock, ManualClock
    from router.testing.contract import check_adapter
    from router.testing.replies import Received, Reply
    from router.testing.scripted import ScriptedModel, Step
    from router.testing.server import LoopbackServer

__all__ = [
    "Clock",
    "LoopbackServer",
    "ManualClock",
    "Received",
    "Reply",
    "ScriptedModel",
    "Step",
    "check_adapter",
]

_HOMES = {
    "Clock": "clock",
    "LoopbackServer": "server",
    "ManualClock": "clock",
    "Received": "replies",
    "Reply": "replies",
    "ScriptedModel": "scripted",
    "Step": "scripted",
    "check_adapter": "contract",
}


def __getattr__(name: str) -> object:
    """Loads a part when it is asked for: pytest imports this package in every session, for its fixtures."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"router.testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
