"""Fakes, a clock, contract checks and a loopback server, for the tests of apps and of this library.

`no_network` and `manual_clock` are fixtures; pytest finds them by itself once the library is installed.
"""

from __future__ import annotations

from router.testing.clock import Clock, ManualClock
from router.testing.contract import check_adapter
from router.testing.scripted import ScriptedModel, Step
from router.testing.server import LoopbackServer, Received, Reply

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
