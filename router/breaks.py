"""In what ways a stream breaks after its first visible token, as errors."""

from __future__ import annotations

from router.errors import ModelError, ModelProtocolError, ModelTimeoutError, StreamInterruptedError
from router.usage import Usage

__all__ = ["adapter_error", "interruption", "stall", "unfinished"]


def unfinished(model: str) -> ModelProtocolError:
    """Its backend ended it without saying why: it may be half an answer."""
    return ModelProtocolError("the stream ended without a finish reason", model=model)


def stall(model: str, silent: float) -> ModelTimeoutError:
    """Nothing came for so many seconds, and more was to come."""
    return ModelTimeoutError(
        f"the stream stalled: nothing came for {silent:.1f} s, which is far longer than usual",
        model=model,
        timeout=silent,
    )


def adapter_error(model: str, error: Exception) -> ModelError:
    """What its adapter raised; a bug of the adapter's is the backend's nonsense to everybody else."""
    if isinstance(error, ModelError):
        return error
    text = f"the adapter broke its contract: {type(error).__name__}: {error}"
    broken = ModelProtocolError(text, model=model)
    broken.__cause__ = error
    return broken


def interruption(error: ModelError, text: str, usage: Usage | None, more: str = "") -> StreamInterruptedError:
    """What the reader gets, if nobody goes on: the text and the usage so far, and why there is no more."""
    return StreamInterruptedError(
        f"the stream of {error.model} broke after {len(text)} characters: {error}{more}",
        text=text,
        usage=usage,
    )
