"""The errors for a model that there is no room for: with the numbers, and what helps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adapters.local.residency.prediction import Need
from adapters.local.residency.value import Held
from router.errors import ModelHTTPError, ModelLoadError
from router.failures import QUEUE_FULL

__all__ = ["busy", "hopeless", "shown", "unreadable"]

_STEPS = (("GiB", 1 << 30), ("MiB", 1 << 20))


def shown(size: int) -> str:
    """Bytes for people."""
    for unit, step in _STEPS:
        if abs(size) >= step:
            return f"{size / step:,.1f} {unit}"
    return f"{size:,} bytes"


def unreadable(path: Path, error: OSError) -> str:
    """What is wrong with a file that cannot even be looked at."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file; correct the path or download the model"
    return f"{path} cannot be read: {error.strerror or error}"


def _needs(name: str, need: Need) -> str:
    least = need.weights + need.own(need.window)
    return (
        f"{name!r} needs {shown(least)} of memory: weights {shown(need.weights)}, a context of "
        f"{need.window:,} tokens {shown(need.own(need.window) - need.fixed)}, "
        f"to compute in {shown(need.fixed)}"
    )


def hopeless(name: str, need: Need, possible: int, *, declared: bool) -> ModelLoadError:
    """It would not fit if it were alone."""
    whose = "local_memory lets all local models together take" if declared else "the machine has to spare"
    more = (
        "raise local_memory" if declared else "free memory, or declare with local_memory what they may take"
    )
    return ModelLoadError(
        f"{_needs(name, need)}; {whose} {shown(max(possible, 0))}; take a smaller model or quantisation, "
        f"lower n_ctx or max_parallel, or {more}",
        model=name,
    )


def busy(
    name: str,
    need: Need,
    limit: int | None,
    holders: Sequence[tuple[str, Held, bool]],
    *,
    patience: float,
) -> ModelHTTPError:
    """It would fit if others left, but they went on serving."""
    held = ", ".join(
        f"{other!r} {shown(one.own + one.weights)} ({'idle' if idle else 'at work'})"
        for other, one, idle in holders
    )
    together = f"all local models together may take {shown(limit)}; " if limit is not None else ""
    return ModelHTTPError(
        f"{_needs(name, need)}; {together}in memory: {held or 'nothing'}; none of those at work became idle "
        f"within {patience:g} s",
        model=name,
        status_code=503,
        code=QUEUE_FULL,
    )
