"""How much of a prompt a backend has likely computed before, because it was sent there lately.

::

    cuts    where a prompt may branch off from another one: hashes and token positions; no text is kept
    traces  what is known of one model at one cut, and how much of it still holds
    memory  what each model was sent lately, and what of a new prompt it is expected to have
    hits    what part of a known beginning a host really finds, learned from its usage
"""

from __future__ import annotations

from router.prefixes.cuts import Prompt, read_prompt
from router.prefixes.memory import PrefixMemory, Shared
from router.prefixes.traces import freshness

__all__ = ["PrefixMemory", "Prompt", "Shared", "freshness", "read_prompt"]
