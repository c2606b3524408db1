"""Adapters: the code that talks to one kind of backend each. `router.loading` loads them by name."""

from __future__ import annotations

#: Tells this package from another distribution's top-level `adapters`.
BELONGS_TO = "multimodel-router"
