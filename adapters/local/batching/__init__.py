"""The engine that answers many chats at once: one thread and one context per model.

`queue`, `scheduler`, `tree`, `cells` and `memory` decide, and know no model; `arriving` brings one into
memory, `loaded` and `serving` compute with it; `worker` is the thread, `waiting` and `door` are for who wants
to come in, `engine` is what others hold; `disk` keeps what leaves memory.
"""

from __future__ import annotations

from adapters.local.batching.engine import BatchingEngine

__all__ = ["BatchingEngine"]
