"""The contract between the router and the code that talks to one kind of backend.

An adapter serves one model. It translates a `Call` for its backend, and the backend's answer, or its
failure, back: openai's own types, or a `router.errors.ModelError`, and nothing else. It neither retries
nor chooses; that is the router's business. `router.testing.check_adapter` checks all that is said here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from router.request import ChatRequest

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

__all__ = ["Adapter", "AdapterSettings", "Call", "Load"]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One attempt, as an adapter is asked to make it.

    Attributes:
        request: What the caller asked.
        timeout: Seconds the backend has in all; None if there is no limit. A hint for the transport:
            the router cancels the attempt itself when time is over.
        started: To be called, on the event loop, when the backend begins to work on this call: after
            loading a model and after waiting in its queue. Time before it does not count as slowness.
            Calling it more than once does no harm.
        prefix: The beginning of the answer, which the caller has already: it is to be gone on with from its
            last character, and not to be given again. Empty for an answer from its beginning. Only streams
            of models whose profile says `continues` are asked so.
        private: Whether the request is private: nothing of it may be kept beyond the call, and nothing of it
            logged.
    """

    request: ChatRequest
    timeout: float | None = None
    started: Callable[[], None] = _nothing
    prefix: str = ""
    private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy a backend is, as far as it can tell without I/O.

    Attributes:
        resident: Whether the model is loaded (always true of a hosted one).
        running: Requests being worked on.
        waiting: Requests in the backend's queue.
        full: Whether its queue takes no more.
        slots: Requests it can work on at once; None: it does not say, and all that run share what it has.
    """

    resident: bool = True
    running: int = 0
    waiting: int = 0
    full: bool = False
    slots: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """What of the router's own configuration an adapter needs.

    Attributes:
        max_response_bytes: The most bytes of one answer, decompressed; more is a `ModelProtocolError`.
        local_memory: Bytes that the local models of the process may take together; None: what is to spare.
    """

    max_response_bytes: int = 16 * 1024 * 1024
    local_memory: int | None = None


class Adapter(Protocol):
    """Talks to the backend of one model.

    Used from many tasks, threads and event loops at once: what belongs to a loop is kept per loop.
    Cancelling the task that awaits a method stops the work at the backend, too.
    """

    async def complete(self, call: Call) -> ChatCompletion:
        """Answers in one piece.

        Raises:
            InvalidRequestError: if the request is one that no model of any kind could be sent: it ends.
            ModelError: whatever else goes wrong. The answer is one that `openai` itself could have given: at
                least one choice, a message with content or tool calls or a refusal, a finish reason.
        """
        ...

    def stream(self, call: Call) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Answers in chunks. The last chunk, or the one before, carries usage if the backend reports it.

        The generator ends only after a chunk with a finish reason; a stream that breaks off raises.
        Closing the generator stops the work at the backend.

        Raises:
            InvalidRequestError: as `complete`.
            ModelError: whatever else goes wrong, before the first chunk or later.
        """
        ...

    def load(self) -> Load:
        """How busy the backend is. Cheap, and without I/O: it is asked before every decision."""
        ...

    async def aclose(self) -> None:
        """Stops what is running and frees what is held, on every loop. May be called twice."""
        ...
