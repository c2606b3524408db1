"""The engine that answers many chats at once: one thread and one context per model.

`queue`, `scheduler`, `tree`, `cells` and `memory` decide, and know no model; `loaded` and `serving` compute;
`worker` is the thread, `engine` what others hold.
"""

from __future__ import annotations

from adapters.local.batching.engine import BatchingEngine

__all__ = ["BatchingEngine"]
