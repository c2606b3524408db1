"""The two faces of the router: `AsyncRouter`, and `Router`, which runs it on a private event loop.

What stands behind them is imported when the first router is built: `import router` stays light.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Never, Self, Unpack, overload

from router.config import Budget, Policy, RateLimit, Recovery, RouterConfig
from router.decision import Decision
from router.errors import InvalidRequestError
from router.fields import CompletionFields
from router.models import Model

if TYPE_CHECKING:
    from pydantic import SecretStr

    from router.background import BackgroundLoop
    from router.completion import RoutedCompletion
    from router.core import Core
    from router.streams import AsyncRoutedStream
    from router.sync_streams import RoutedStream
    from router.testing.clock import Clock

__all__ = ["AsyncRouter", "Router"]


class _Face:
    """What both faces share; none of it waits."""

    _core: Core

    def __init__(
        self,
        models: Sequence[Model],
        *,
        policy: Policy | None = None,
        recovery: Recovery | None = None,
        budget: Budget | Sequence[Budget] | None = None,
        limits: RateLimit | Sequence[RateLimit] | None = None,
        ledger: str | Path | None = None,
        keep_text: bool = False,
        local_memory: str | int | None = None,
        shared: str | SecretStr | None = None,
        **misspelt: Never,
    ) -> None:
        given = {
            "policy": policy,
            "recovery": recovery,
            "budget": budget,
            "limits": limits,
            "ledger": ledger,
            "local_memory": local_memory,
            "shared": shared,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        self._begin(RouterConfig.parse({"models": models, "keep_text": keep_text, **fields, **misspelt}))

    def _begin(self, config: RouterConfig, clock: Clock | None = None) -> None:
        from router.core import Core

        self._core = Core(config, clock)

    @classmethod
    def from_config(cls, config: RouterConfig, *, clock: Clock | None = None) -> Self:
        """Builds a router from a configuration; a test may pass a clock that it moves by hand.

        Raises:
            ConfigurationError: if the models cannot be had, or the ledger cannot be opened.
        """
        router = cls.__new__(cls)
        router._begin(config, clock)  # noqa: SLF001 - its own
        return router

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Builds a router from a TOML file; paths in it are relative to it.

        Raises:
            ConfigurationError: if the file cannot be read or says something wrong.
        """
        return cls.from_config(RouterConfig.from_file(path))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self._core.fleet.names)}>"

    @property
    def config(self) -> RouterConfig:
        """What the router is built from now."""
        return self._core.config

    def route(self, *, stream: bool = False, **fields: Unpack[CompletionFields]) -> Decision:
        """Decides without calling a model: no I/O, nothing reserved, nothing written.

        Takes what `chat.completions.create` takes.

        Raises:
            InvalidRequestError: if the request is wrong.
            NoEligibleModelError: if no model may take it; the error carries the decision.
        """
        from router.deciding import choose
        from router.validation import parse_request

        private = self._core.config.policy.privacy == "private"
        parsed = parse_request({"stream": stream, **fields}, private=private)
        return choose(self._core, parsed).decision(model=None)

    def feedback(self, answered: Decision | RoutedCompletion | str, score: float) -> None:
        """Tells how good an answer was, now or later.

        It is kept in the ledger beside the decision.

        Args:
            answered: The completion, the stream's or completion's `routing`, or a decision's id.
            score: 0 (bad) to 1 (good).

        Raises:
            InvalidRequestError: if the score is no number from 0 to 1.
        """
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise InvalidRequestError(
                f"score = {score!r}: a number from 0 to 1", field="score", value=repr(score)
            )
        decision = getattr(answered, "routing", answered)
        decision_id = decision.id if isinstance(decision, Decision) else decision
        if not isinstance(decision_id, str):
            raise InvalidRequestError(
                "feedback needs a completion, a decision or a decision's id", field="answered"
            )
        self._core.ledger.feedback(decision_id, float(score), self._core.wall())

    def update(self, models: Sequence[Model]) -> None:
        """Replaces the models. Requests in flight end on those they began with.

        What was learned of models that stay as they were is kept.

        Raises:
            ConfigurationError: if the models do not fit together; then nothing changes.
        """
        self._core.update(models)


class AsyncRouter(_Face):
    """Routes chat requests to the cheapest and fastest model that is good enough, on any event loop.

    Args:
        models: At least one; names are unique.
        policy: What to choose by.
        recovery: What to do about failures.
        budget: One or several money limits, all of which hold.
        limits: One or several limits on requests and tokens per minute and on requests at once, of the router
            or of tasks, all of which hold.
        ledger: An SQLite file for the durable record; None keeps it in memory.
        keep_text: Whether the ledger keeps prompts and answers (never those of private requests).
        local_memory: Bytes that all local models of the process may take together, as a number or as text
            ("8GiB"); of several routers in one process the least holds. None: what the machine has to spare.
        shared: The URL of a Redis server that keeps budgets and rate limits for all routers that name it, on
            whatever machine; None: the ledger's file does, for the processes that use it.

    Raises:
        ConfigurationError: if something of it is wrong; nothing half-built remains.
    """

    def _begin(self, config: RouterConfig, clock: Clock | None = None) -> None:
        super()._begin(config, clock)
        self.chat = AsyncChat(self._core)

    async def aclose(self) -> None:
        """Stops what runs on this loop, writes the ledger and frees the models. Does no harm twice."""
        await self._core.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncChat:
    """`router.chat`, as openai's clients have it."""

    def __init__(self, core: Core) -> None:
        self.completions = AsyncCompletions(core)


class AsyncCompletions:
    """`router.chat.completions`, as openai's clients have it."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @overload
    async def create(
        self, *, stream: Literal[True], **fields: Unpack[CompletionFields]
    ) -> AsyncRoutedStream: ...
    @overload
    async def create(
        self, *, stream: Literal[False] | None = None, **fields: Unpack[CompletionFields]
    ) -> RoutedCompletion: ...
    @overload
    async def create(
        self, *, stream: bool, **fields: Unpack[CompletionFields]
    ) -> RoutedCompletion | AsyncRoutedStream: ...
    async def create(
        self, *, stream: bool | None = None, **fields: Unpack[CompletionFields]
    ) -> RoutedCompletion | AsyncRoutedStream:
        """Routes a request and answers it.

        Takes what openai's `chat.completions.create` takes, and `routing=` (`RoutingOptions` or a mapping).
        With `stream=True` it returns when the first visible token is there.

        Raises:
            InvalidRequestError: if the request is wrong.
            NoEligibleModelError: if no model may take it, with the reason for each.
            BudgetExceededError: if money is the reason.
            AllModelsFailedError: if every attempt failed, with every cause.
            DeadlineExceededError: if the deadline passed.
            OverloadedError: if every model is at its limit.
            RouterClosedError: if the router was closed.
        """
        from router.answering import answer

        return await answer(self._core, {"stream": stream, **fields})


class Router(_Face):
    """`AsyncRouter` for synchronous code: the same path, on a private event loop.

    Usable from many threads at once, and inside a running event loop (Jupyter). Arguments as `AsyncRouter`.
    """

    def _begin(self, config: RouterConfig, clock: Clock | None = None) -> None:
        from router.background import BackgroundLoop

        super()._begin(config, clock)
        self._background = BackgroundLoop()
        self.chat = Chat(self._core, self._background)

    def close(self) -> None:
        """Stops what runs, writes the ledger and frees the models. Does no harm twice."""
        if not self._core.closed:
            self._background.run(self._core.aclose)
        self._background.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Chat:
    """`router.chat`, as openai's clients have it."""

    def __init__(self, core: Core, background: BackgroundLoop) -> None:
        self.completions = Completions(core, background)


class Completions:
    """`router.chat.completions`, as openai's clients have it."""

    def __init__(self, core: Core, background: BackgroundLoop) -> None:
        self._core = core
        self._background = background

    @overload
    def create(self, *, stream: Literal[True], **fields: Unpack[CompletionFields]) -> RoutedStream: ...
    @overload
    def create(
        self, *, stream: Literal[False] | None = None, **fields: Unpack[CompletionFields]
    ) -> RoutedCompletion: ...
    @overload
    def create(
        self, *, stream: bool, **fields: Unpack[CompletionFields]
    ) -> RoutedCompletion | RoutedStream: ...
    def create(
        self, *, stream: bool | None = None, **fields: Unpack[CompletionFields]
    ) -> RoutedCompletion | RoutedStream:
        """Routes a request and answers it. As `AsyncCompletions.create`, waiting."""
        from router.answering import answer
        from router.streams import AsyncRoutedStream
        from router.sync_streams import RoutedStream

        arguments = {"stream": stream, **fields}
        answered = self._background.run(lambda: answer(self._core, arguments))
        if isinstance(answered, AsyncRoutedStream):
            return RoutedStream(answered, self._background)
        return answered
