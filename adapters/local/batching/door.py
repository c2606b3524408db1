"""How those who wait come in: looked at at once, seated in turn. On the thread that owns the model."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from adapters.local.batching.waiting import Waiting
from adapters.local.engine import Job, ModelFacts
from router.errors import ModelError, ModelProtocolError

if TYPE_CHECKING:
    from adapters.local.batching.chats import Chat
    from adapters.local.batching.serving import Serving

__all__ = ["Door"]


class Door:
    """Lets those who wait in.

    Args:
        model: The model's name, for errors.
        lock: Whoever touches `waiting` holds it. Nobody is told anything under it.
        waiting: Who waits.
        slots: Requests at work at once, at most.
    """

    def __init__(self, model: str, lock: threading.Condition, waiting: Waiting[Chat], slots: int) -> None:
        self._model = model
        self._lock = lock
        self._waiting = waiting
        self._slots = slots

    def admit(self, serving: Serving, facts: ModelFacts) -> None:
        """Tells newcomers at once what they need to know, whether or not there is a seat for them."""
        with self._lock:
            opened = self._waiting.all_opened()
        for told in opened:
            told(facts)
        while self._waiting.fresh:
            with self._lock:
                if not self._waiting.fresh:  # cancelled meanwhile
                    return
                job = self._waiting.fresh[0]  # it counts as waiting all the time
            chat = self._looked_at(serving, job)
            with self._lock:
                if self._waiting.fresh and self._waiting.fresh[0] is job:
                    self._waiting.fresh.popleft()
                    if chat is not None:
                        self._waiting.queue.push(chat, job.session)

    def _looked_at(self, serving: Serving, job: Job) -> Chat | None:
        """The job as a chat; None if it was told why it cannot be one."""
        try:
            return serving.chat(job)
        except ModelError as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - one job's failure must not end the thread that serves all
            failed = ModelProtocolError(f"cannot begin: {error!r}", model=self._model)
        if not job.cancelled:
            job.listener.failed(failed)
        return None

    def seat(self, serving: Serving) -> None:
        """Lets those begin whose turn it is, as long as there are slots and memory."""
        while len(serving.running) < self._slots:
            at_work = serving.sessions
            with self._lock:
                chat = self._waiting.queue.peek(at_work)
                if chat is None or not serving.fits(chat):
                    return
                self._waiting.queue.pop(at_work)
                serving.running.append(chat)
            serving.begin(chat)
