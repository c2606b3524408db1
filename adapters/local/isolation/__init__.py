"""A local model's engine in a process of its own: what breaks in native code breaks there.

`engine.ProcessEngine` is the face in the app's process, `child` what runs in the other one. Between them go
the messages of `messages`, written by `wire`. Nothing of the child's is trusted to be more than data.
"""

from __future__ import annotations

from adapters.local.isolation.engine import ProcessEngine

__all__ = ["ProcessEngine"]
