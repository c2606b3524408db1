"""Which engine computes for a model. The one place that names them."""

from __future__ import annotations

from adapters.local.batching import BatchingEngine
from adapters.local.engine import Engine
from router.models import LocalModel

__all__ = ["engine_of"]


def engine_of(model: LocalModel) -> Engine:
    """The engine for a model, idle. Cheap: nothing is loaded or started before it is needed."""
    if model.isolation == "process":
        from adapters.local.isolation import ProcessEngine

        return ProcessEngine(model)
    return BatchingEngine(model)
