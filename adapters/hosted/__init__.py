"""The adapter for models behind an OpenAI-compatible API.

Nothing heavy is imported here: the openai SDK loads on a worker thread at the first call.
"""

from __future__ import annotations

from adapters.hosted.adapter import HostedAdapter
from router.adapter import AdapterSettings
from router.models import HostedModel

__all__ = ["HostedAdapter", "create"]


def create(model: HostedModel, settings: AdapterSettings) -> HostedAdapter:
    """Builds the adapter of one hosted model. Cheap: reads no key, opens no connection, loads no SDK."""
    return HostedAdapter(model, settings)
