"""llama.cpp's threads do not survive a fork, and waiting for them hangs: a child that forked must not try."""

from __future__ import annotations

import os

from router.errors import ModelLoadError

__all__ = ["forked", "loads", "refuse_after_fork"]

#: The process that loaded a model.
_loader: int | None = None


def loads() -> None:
    """This process loads a model."""
    global _loader  # noqa: PLW0603 - a fork is the process's matter, not one engine's
    _loader = os.getpid()


def forked() -> bool:
    """Whether models were loaded by the process that this one forked from."""
    return _loader not in (None, os.getpid())


def refuse_after_fork(model: str) -> None:
    """Refuses to go on in such a process.

    Raises:
        ModelLoadError: if it is one.
    """
    if forked():
        raise ModelLoadError(
            "this process forked after the model was loaded; llama.cpp does not survive a fork. Load local "
            "models after forking, or start processes with the method 'spawn' or 'forkserver'",
            model=model,
        )
