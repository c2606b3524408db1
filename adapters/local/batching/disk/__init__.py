"""Computed beginnings on disk, so that long chats go on at once after a restart.

`folder` keeps blobs, `writer` writes them on its own thread, `blocks` says what a blob stands for, `identity`
whose it is, and `disk` copies between them and a model's memory.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from adapters.local.batching.disk.blocks import Block
from adapters.local.batching.disk.disk import BLOCK, Disk
from adapters.local.batching.disk.folder import Folder
from adapters.local.batching.disk.identity import identity

if TYPE_CHECKING:
    from adapters.local.context import NativeContext
    from adapters.local.engine import ModelFacts
    from router.models import LocalModel

__all__ = ["Block", "Disk", "disk_of"]

_log = logging.getLogger("router.local")


def disk_of(model: LocalModel, context: NativeContext, facts: ModelFacts, scratch: int) -> Disk | None:
    """The disk below a model's memory; None if none was declared, or it cannot be used.

    Args:
        model: What was declared.
        context: Where it computes.
        facts: What it says of itself.
        scratch: See `Disk`.
    """
    if model.session_dir is None:
        return None
    if 0 < context.window < 2 * BLOCK:
        # llama.cpp leaves out what is further back than the window: a block would have holes.
        _log.warning("%s: its sliding window is too short to save sessions", model.name)
        return None
    try:
        key = identity(model, context, facts.metadata)
        folder = Folder(model.session_dir.expanduser())
        folder.prepare()
    except (OSError, RuntimeError) as error:  # RuntimeError: whose home is "~"?
        _log.warning("%s: sessions are not saved: %s", model.name, error)
        return None
    return Disk(context, scratch, key, folder)
