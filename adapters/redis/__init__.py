"""Budgets and limits that several machines share, on a Redis server.

What a router has in its ledger's file for the processes of one machine, it has here for all that name the
same server: money is reserved and settled, and requests, tokens and places are taken, in one Lua script
(`books.lua`), which Redis runs as a whole and by its own clock. Decisions and outcomes stay in the ledger.
"""

from __future__ import annotations

from adapters.redis.books import create

__all__ = ["create"]
