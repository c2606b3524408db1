"""Which engine computes for a model. The one place that names them."""

from __future__ import annotations

from adapters.local.batching import BatchingEngine
from adapters.local.engine import Engine
from adapters.local.residency.tenant import Place
from router.models import LocalModel

__all__ = ["engine_of"]


def engine_of(model: LocalModel, *, limit: int | None = None, place: Place | None = None) -> Engine:
    """The engine for a model, idle. Cheap: nothing is loaded or started before it is needed.

    Args:
        model: What was declared.
        limit: Bytes that all local models of this process may take; None: what there is to spare.
        place: Where the memory of an engine in this process comes from; None: this process's books.
    """
    if model.isolation == "process":
        from adapters.local.isolation import ProcessEngine

        return ProcessEngine(model, limit=limit)
    return BatchingEngine(model, limit=limit, place=place)
