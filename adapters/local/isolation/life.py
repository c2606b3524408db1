"""One process of an engine, in the books: room is set aside before it starts, and is free when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from adapters.local.batching.worker import MOST_SLOTS
from adapters.local.isolation.ending import Ending
from adapters.local.isolation.messages import Setup
from adapters.local.isolation.process import Child
from adapters.local.isolation.starting import StartError
from adapters.local.isolation.turn import shared_descriptor
from adapters.local.residency import UnwantedError, predict
from adapters.local.residency.refusing import unreadable
from adapters.local.residency.tenant import Place
from router.errors import ModelError, ModelLoadError
from router.models import LocalModel

__all__ = ["Life"]

#: Bytes of the process itself: the interpreter and its libraries, measured.
_PROCESS = 72 << 20


class Life:
    """From before a process is started to its end.

    Attributes:
        refusal: Why there is no room for it; None: there is, or nobody knows yet.
        retired: It was sent away while it had nothing to do: its end is no crash.
        newest: The number of the last ticket when it began to wait for room; None: it did not wait.

    Args:
        model: What it is to load.
        place: The engine's part in the books.
        wanted: Whether anybody waits for it; asked under the books' lock.
    """

    def __init__(self, model: LocalModel, place: Place, wanted: Callable[[], bool]) -> None:
        self.refusal: ModelError | None = None
        self.retired = False
        self.newest: int | None = None
        self._model = model
        self._place = place
        self._wanted = wanted
        self._turn = shared_descriptor()
        self._own: int | None = None  # bytes that it takes at once beside its weights, if there is room
        self._began = 0.0

    def start(self, hear: Callable[[object], None], over: Callable[[Ending], None]) -> Child:
        """Starts the process, as soon as there is room; see `Child` for who is told what."""
        keep = () if self._turn is None else (self._turn,)
        return Child(self._model.name, self.begin, keep=keep, hear=hear, over=over)

    def begin(self) -> Setup:
        """Waits for room, and says what the process is to load.

        Raises:
            StartError: if it is not to be started.
        """
        cells = self._room()
        fields = self._model.model_dump(mode="json", include=set(LocalModel.model_fields))
        self._began = time.monotonic()
        return Setup(fields, turn=self._turn, cells=cells)

    def _room(self) -> int:
        try:
            need = predict(self._model, min(self._model.max_parallel, MOST_SLOTS))
        except OSError as error:
            self.refusal = ModelLoadError(unreadable(self._model.path, error), model=self._model.name)
            raise StartError(str(self.refusal)) from error
        # Its weights are nobody else's: what another process has in memory is not counted on.
        need = replace(need, source=self, fixed=need.fixed + _PROCESS)
        try:
            cells = self._place.enter(need, self._wanted)
        except UnwantedError as error:
            raise StartError("nobody waits for it any more") from error
        except ModelError as error:
            self.refusal = error
            raise StartError(str(error)) from error
        self._own = need.own(cells) - need.shelf(cells)
        return cells

    def loaded(self, pid: int | None) -> None:
        """The process has its model in memory, and may be asked to leave from now on."""
        if self._own is not None:
            self._place.entered(time.monotonic() - self._began, _fixed_bytes(pid, self._own))

    def over(self) -> None:
        """The process is no more."""
        if self._own is not None:
            self._place.left()


def _fixed_bytes(pid: int | None, own: int) -> int | None:
    """Bytes of a process's weights that come from no file any more; None where the system does not tell."""
    try:
        import psutil
    except ImportError:
        return None
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    shared = getattr(memory, "shared", None)  # Linux has it
    return None if shared is None else int(memory.rss - shared - own)
