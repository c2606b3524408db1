"""Models that run inside this process: GGUF files through llama.cpp (extra `local`).

`LocalAdapter` speaks OpenAI's language and knows chat templates, tools and JSON schemas. It hands rendered
prompts to an `engine.Engine`, which knows tokens; `engines` says which one.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

if find_spec("llama_cpp") is None:  # importing it takes long, and is the engine's thread's business
    raise ModuleNotFoundError("No module named 'llama_cpp'", name="llama_cpp")

from adapters.local.adapter import LocalAdapter
from adapters.local.engines import engine_of
from router.models import LocalModel

if TYPE_CHECKING:
    from router.adapter import AdapterSettings
    from router.models import Model

__all__ = ["LocalAdapter", "create"]


def create(model: Model, settings: AdapterSettings) -> LocalAdapter:
    """Builds the adapter of a `LocalModel`. Cheap: its file waits for the first request, or `preload`."""
    declared = cast("LocalModel", model)
    return LocalAdapter(declared, engine_of(declared, limit=settings.local_memory))
