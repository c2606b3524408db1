"""How a model comes into memory: checked, given room, loaded. On the thread that will own it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from adapters.local.engine import ModelFacts
from adapters.local.files import check_file
from adapters.local.residency import Need, UnwantedError, predict
from adapters.local.residency.refusing import unreadable
from adapters.local.residency.tenant import Place
from router.errors import ModelError, ModelLoadError
from router.models import LocalModel

if TYPE_CHECKING:
    from adapters.local.batching.loaded import Loaded

__all__ = ["arrive"]


class _Wish:
    """Whether somebody wants the model. A load that was given up stays so, whoever comes then."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted
        self.holds = True

    def __call__(self) -> bool:
        self.holds = self.holds and self._wanted()
        return self.holds


def arrive(
    model: LocalModel,
    slots: int,
    place: Place,
    wanted: Callable[[], bool],
    known: ModelFacts | None = None,
) -> Loaded:
    """Loads a model as soon as there is room for it.

    Args:
        model: Which.
        slots: Requests at work at once, at most.
        place: Where its memory comes from, and goes when it leaves: `place.left` is the caller's to call.
        wanted: Asked now and then; False gives up.
        known: What the model said of itself when it was loaded before: others rely on it.

    Raises:
        UnwantedError: if it was given up.
        ModelError: if it cannot be loaded, or there is no room.
    """
    need = _need(model, slots)
    wish = _Wish(wanted)
    from adapters.local.batching.loaded import Loaded  # slow, once: not to be taken for the model's

    cells = place.enter(need, wish)
    began = time.monotonic()
    try:
        loaded = Loaded(model, wish, slots=slots, cells=cells)
        _check_same(model, loaded, known)
    except BaseException as error:
        place.left()
        if isinstance(error, ModelError) and not wish.holds:
            raise UnwantedError from error
        raise
    place.entered(time.monotonic() - began, loaded.fixed)
    return loaded


def _check_same(model: LocalModel, loaded: Loaded, known: ModelFacts | None) -> None:
    if known not in (None, loaded.facts):
        loaded.close()
        text = f"{model.path} was replaced by another model: build a new router, or update this one"
        raise ModelLoadError(text, model=model.name)


def _need(model: LocalModel, slots: int) -> Need:
    check_file(model)
    try:
        return predict(model, slots)
    except OSError as error:  # it was there a moment ago
        raise ModelLoadError(unreadable(model.path, error), model=model.name) from error
