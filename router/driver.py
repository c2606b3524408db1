"""Drives the attempt machine of one request: runs attempts, keeps its timer, books what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from router.account import account_of
from router.admission import admit, is_noise, turned_away
from router.attempts import Action, AttemptMachine, Cancel, Ending, Fail, Promote, Start, Succeed
from router.calling import call_model
from router.decision import Decision
from router.discreet import as_told, refusal_as_told
from router.endings import error_of
from router.errors import (
    ConfigurationError,
    InvalidRequestError,
    ModelError,
    ModelLoadError,
    ModelProtocolError,
    RouterClosedError,
    RouterError,
)
from router.live import LiveAttempt, begin, book, close_source, start
from router.paying import settle, settle_later

if TYPE_CHECKING:
    from router.core import Core
    from router.routing import Routing

__all__ = ["Run"]


class Run:
    """One request on its way. Lives on one event loop."""

    def __init__(self, core: Core, routing: Routing, machine: AttemptMachine) -> None:
        self.core = core
        self.routing = routing
        self.machine = machine
        self.attempts: list[LiveAttempt] = []
        self.winner: LiveAttempt | None = None
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[LiveAttempt] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = math.inf
        #: The decision as it was written down: every attempt is booked then, and nothing of it changes.
        self._final: Decision | None = None
        #: When the first of the limits that refused an attempt lets one go.
        self._free_at = math.inf
        self.stopped = False
        #: Who waits for the next chunk of the answer's stream, if somebody does.
        self.reader: asyncio.Task[object] | None = None
        #: The run that goes on with the answer, if this one's stream broke.
        self.continued: Run | None = None

    async def drive(self) -> LiveAttempt:
        """Runs attempts until one is decided: answered, or a stream's first visible token is there.

        Raises:
            RouterError: if none is; everything that was running is stopped and booked.
        """
        try:
            self._do(self.machine.begin(self._now()))
            return await self._outcome
        except asyncio.CancelledError:
            self._do(self.machine.cancelled(self._now()))
            self.give_up()
            raise
        except RouterError as error:
            self.give_up()
            error.decision = self.decision()
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _now(self) -> float:
        return self.core.now()

    def stop(self) -> None:
        """Ends the request because its router is closed. From any thread."""
        with contextlib.suppress(RuntimeError):  # its loop is closed, and the request with it
            self._loop.call_soon_threadsafe(self._stop_here)

    def _stop_here(self) -> None:
        self.stopped = True
        if not self._outcome.done():
            self._refuse(RouterClosedError("the router was closed while this request ran"))
        elif self.reader is not None:
            self.reader.cancel()
        elif self.continued is not None:
            self.continued.stop()
        elif self.winner is not None and self.winner.outcome == "running":
            self.core.keep(self._loop.create_task(self.abandon(self.winner)))

    def drop(self) -> None:
        """Nobody holds the answer's stream any more. On its loop."""
        attempt = self.core.orphans.pop(self, None)
        if attempt is not None:
            self.forsake(attempt)
        if self.winner is not None and self.winner.source is not None:
            self.core.keep(self._loop.create_task(close_source(self.winner)))

    def forsake(self, attempt: LiveAttempt) -> None:
        """Books an answer that nobody will read to its end, without waiting: its loop may have ended."""
        if attempt.outcome == "running":
            attempt.outcome = "cancelled"
        book(self.core, self.routing, attempt)
        self.write_down("")
        settle_later(self.core, self.routing, attempt)

    async def abandon(self, attempt: LiveAttempt) -> None:
        """Ends an answer that nobody will read to its end."""
        attempt.outcome = "cancelled"
        await self.finish(attempt)

    # --- the machine's actions ---

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Start():
                    self._start(action)
                case Cancel():
                    self._stop(self.attempts[action.attempt], action.error)
                case Promote() | Succeed():
                    self.winner = self.attempts[action.attempt]
                    if not self._outcome.done():
                        self._outcome.set_result(self.winner)
                case Fail():
                    if not self._outcome.done():
                        self._outcome.set_exception(self._error(action.ending))
        self._arm()

    def _arm(self) -> None:
        wake_at = self.machine.wake_at
        if wake_at == self._armed_for:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed_for = wake_at
        if wake_at < math.inf:
            self._timer = self._loop.call_later(max(wake_at - self._now(), 0.0), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._armed_for = math.inf
        self._do(self.machine.timer(self._now()))

    def _start(self, action: Start) -> None:
        attempt = start(self.core, self.routing, action)
        self.attempts.append(attempt)
        attempt.task = self._loop.create_task(self._attempt(attempt))
        self.core.keep(attempt.task)

    def _stop(self, attempt: LiveAttempt, error: ModelError | None) -> None:
        if attempt.outcome == "refused":  # it ends by itself
            return
        attempt.error = error
        attempt.outcome = "failed" if error is not None else "cancelled"
        if error is not None:
            self.core.health.failed(attempt.ticket.name, error, self._now(), began=attempt.started_at)
        book(self.core, self.routing, attempt)
        if attempt.task is not None:
            attempt.task.cancel()

    def _error(self, ending: Ending) -> RouterError:
        refusals = [attempt.error for attempt in self.attempts if attempt.error is not None]
        return error_of(
            ending,
            causes=self.machine.causes,
            refusals=refusals,
            deadline=self.routing.options.deadline or 0.0,
            free_in=max(self._free_at - self._now(), 0.0),
        )

    # --- one attempt ---

    async def _attempt(self, attempt: LiveAttempt) -> None:
        name = self.routing.fleet.names[attempt.place]
        try:
            if not await self._admitted(attempt):
                return
            at = await self._call(attempt)
            told = self.machine.visible if self.routing.request.stream else self.machine.finished
            self._do(told(attempt.number, at))
        except asyncio.CancelledError:
            if attempt.outcome == "running":
                attempt.outcome = "cancelled"
            raise
        except ModelError as error:
            self._failed(attempt, error)
        except InvalidRequestError as error:
            attempt.outcome = "refused"  # nothing was sent, so nothing was learned of the model
            self.core.health.released(name, began=attempt.started_at)
            self._refuse(refusal_as_told(self.routing, error))
        except ConfigurationError as error:
            self._failed(attempt, ModelLoadError(str(error), model=name), cause=error)
        except Exception as error:  # noqa: BLE001 - a bug in an adapter must not lose the request
            text = f"the adapter broke its contract: {type(error).__name__}: {error}"
            self._failed(attempt, ModelProtocolError(text, model=name), cause=error)
        finally:
            if attempt is not self.winner:
                await self._close(attempt)

    async def _admitted(self, attempt: LiveAttempt) -> bool:
        """Whether an attempt may go; the machine is told if it may not."""
        free_at = await admit(self.core, self.routing, attempt)
        if free_at is None:
            return True
        attempt.outcome = "refused"
        self._free_at = min(self._free_at, free_at)
        self._do(self.machine.refused(attempt.number, free_at, self._now()))
        return False

    async def _call(self, attempt: LiveAttempt) -> float:
        """Calls an attempt's model. Returns when its answer or its first token was there."""
        return await call_model(self.core, self.routing, attempt, begun=self._begun, made=self.attempts)

    def _begun(self, attempt: LiveAttempt) -> None:
        if attempt.begun_at is None:
            self._do(self.machine.started(attempt.number, begin(self.core, self.routing, attempt)))

    def _failed(self, attempt: LiveAttempt, error: ModelError, cause: Exception | None = None) -> None:
        if attempt.outcome != "running":
            return
        if cause is not None:
            error.__cause__ = cause
        error = as_told(self.routing, attempt.place, error)
        attempt.outcome, attempt.error, attempt.ended_at = "failed", error, self._now()
        name = self.routing.fleet.names[attempt.place]
        if turned_away(self.core, self.routing, attempt, error):
            self.core.health.released(name, began=attempt.started_at)
        else:
            self.core.health.failed(name, error, attempt.ended_at, began=attempt.started_at)
        noise = is_noise(self.core, attempt, error)
        self._do(self.machine.failed(attempt.number, error, attempt.ended_at, noise=noise))

    def _refuse(self, error: RouterError) -> None:
        """Ends the request with an error of its own: no model is to blame, and none could answer it."""
        if not self._outcome.done():
            self._outcome.set_exception(error)
            self._do(self.machine.cancelled(self._now()))

    # --- booking ---

    async def _close(self, attempt: LiveAttempt) -> None:
        """Ends an attempt that did not win: its connection, its place in the limits, its money."""
        if attempt.source is not None:
            await attempt.source.aclose()
        if attempt.outcome == "running":
            attempt.outcome = "cancelled"
        book(self.core, self.routing, attempt)
        await self.settle(attempt)

    async def finish(self, attempt: LiveAttempt, text: str = "") -> None:
        """The winner is over: books it, learns from it, and writes the decision down."""
        if attempt.outcome == "running":
            attempt.outcome = "succeeded"
        book(self.core, self.routing, attempt)
        self.write_down(text)
        # Only now: whoever waits here may be cancelled, or its loop may end.
        try:
            await close_source(attempt)
        finally:
            await self.settle(attempt)

    def give_up(self) -> None:
        """The request failed or the caller went away: books every attempt and writes the decision down."""
        for attempt in self.attempts:
            if attempt.outcome == "running":
                attempt.outcome = "cancelled"
            book(self.core, self.routing, attempt)
        winner, self.winner = self.winner, None
        if winner is not None:  # it won in the very moment in which the caller went away
            self.core.keep(self._loop.create_task(self._close(winner)))
        self.write_down("")

    def write_down(self, text: str) -> None:
        """The request is over, with this text: writes the decision down. Once."""
        if self._final is None:
            self._final = self.decision()
            self.core.write_down(self.routing, self._final, text)
            self.core.leave(self)

    async def settle(self, attempt: LiveAttempt) -> None:
        """Replaces the money set aside by what was really spent; committed when this returns."""
        await settle(self.core, self.routing, attempt)

    def decision(self) -> Decision:
        """The decision as it stands now."""
        if self._final is not None:
            return self._final
        if self.continued is None:
            return account_of(self.routing, self.attempts, self.winner)
        rest, goes_on = self.continued.decision(), self.continued.winner is not None
        return account_of(self.routing, self.attempts, self.winner, rest=rest, goes_on=goes_on)
