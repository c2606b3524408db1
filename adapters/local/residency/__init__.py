"""Which local models are in memory: all of a process share one budget, whatever runs them.

`prediction` says how much a model will take, `limits` how much there is, `value` who leaves first; these
decide nothing by themselves. `residency` keeps the books and lets models in, `tenant` is one engine's part in
them.
"""

from __future__ import annotations

import os

from adapters.local.residency.prediction import Need, predict
from adapters.local.residency.residency import Residency, UnwantedError
from adapters.local.residency.tenant import Lodger, Tenant

__all__ = ["RESIDENCY", "Lodger", "Need", "Residency", "Tenant", "UnwantedError", "predict"]

#: The books of this process.
RESIDENCY = Residency()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RESIDENCY.after_fork)
