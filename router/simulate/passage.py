"""The way of one simulated request: what `router.driver` does, on simulated time, without an event loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from router.admission import may_go, turned_away
from router.attempts import Action, AttemptMachine, Cancel, Ending, Fail, Promote, Start, Succeed
from router.decision import Outcome
from router.errors import ModelError, ModelTimeoutError
from router.live import LiveAttempt, begin, book, see, start
from router.simulate.hosts import Job
from router.usage import CHARACTERS_PER_TOKEN, Usage

if TYPE_CHECKING:
    from router.routing import Routing
    from router.simulate.demand import Demand
    from router.simulate.world import World

__all__ = ["Passage"]


class Passage:
    """One request on its way through a world.

    Attributes:
        demand: What it asks.
        routing: The decision made for it.
        attempts: Its attempts, in order.
        winner: The attempt that answers, or answered.
        over: Whether the caller has an answer or an error.
        ending: Why it got none; None if it got one.
    """

    __slots__ = (
        "_armed_for",
        "_jobs",
        "_machine",
        "_told",
        "_world",
        "attempts",
        "demand",
        "ending",
        "over",
        "routing",
        "winner",
    )

    def __init__(self, world: World, demand: Demand, routing: Routing, machine: AttemptMachine) -> None:
        self._world = world
        self._machine = machine
        self._armed_for = math.inf
        self._told = False
        self._jobs: list[Job | None] = []
        self.demand = demand
        self.routing = routing
        self.attempts: list[LiveAttempt] = []
        self.winner: LiveAttempt | None = None
        self.over = False
        self.ending: str | None = None

    def begin(self) -> None:
        """The request arrives."""
        self._do(self._machine.begin(self._world.now))

    # --- the machine's actions ---

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Start():
                    self._start(action)
                case Cancel():
                    self._stop(action.attempt, action.error)
                case Promote():
                    self.winner = self.attempts[action.attempt]
                case Succeed():
                    self._finish(self.attempts[action.attempt], "succeeded")
                case Fail():
                    self._give_up(action.ending)
        if self.over:
            self._tell()
        else:
            self._arm()

    def _tell(self) -> None:
        """The request is over, and everything of it is booked."""
        if not self._told:
            self._told = True
            self._world.ended(self)
            self._jobs.clear()  # they point back here: without that, all of it goes at once

    def _arm(self) -> None:
        """Sets a timer if nothing is heard of the attempts before the machine wants to be woken."""
        wake_at = self._machine.wake_at
        if self.winner is not None:
            wake_at = self.routing.deadline_at
        if wake_at == self._armed_for:
            return
        self._armed_for = math.inf  # what was set before rings in vain
        if wake_at == math.inf:
            return
        if all(job is None or job.over or job.due_at > wake_at for job in self._jobs):
            self._armed_for = wake_at
            self._world.at(wake_at, self._ring)

    def _ring(self) -> None:
        """A timer rings; one that was set for another time rings in vain."""
        if self.over or self._world.now != self._armed_for:
            return
        self._armed_for = math.inf
        if self.winner is not None:
            self.ending = "deadline"
            self._finish(self.winner, "cancelled")
            self._tell()
        else:
            self._do(self._machine.timer(self._world.now))

    def _start(self, action: Start) -> None:
        core, routing = self._world.core, self.routing
        place = routing.order[action.candidate]
        attempt = start(core, routing, action)
        self.attempts.append(attempt)
        self._jobs.append(None)
        free_at = may_go(core, routing, attempt)
        if free_at is not None:
            attempt.outcome = "refused"
            book(core, routing, attempt)
            self._do(self._machine.refused(action.attempt, free_at, self._world.now))
            return
        fate = self.demand.fate(action.attempt, self._world.seed)
        job = self._jobs[action.attempt] = Job(self, action.attempt, self.demand, fate)
        self._world.chooser.started(place)
        self._world.hosts[place].submit(job)

    def _stop(self, number: int, error: ModelError | None) -> None:
        attempt = self.attempts[number]
        attempt.error = error
        attempt.outcome = "failed" if error is not None else "cancelled"
        if error is not None:
            self._world.core.health.failed(error.model, error, self._world.now, began=attempt.started_at)
        self._end(attempt)

    # --- what the backends tell ---

    def begun(self, job: Job) -> None:
        """As `Told`."""
        attempt = self.attempts[job.number]
        if attempt.begun_at is None:
            self._do(self._machine.started(job.number, begin(self._world.core, self.routing, attempt)))

    def visible(self, job: Job) -> None:
        """As `Told`."""
        attempt = self.attempts[job.number]
        see(self._world.core, attempt)
        self._do(self._machine.visible(job.number, self._world.now))

    def finished(self, job: Job) -> None:
        """As `Told`."""
        attempt, service = self.attempts[job.number], job.service
        attempt.ended_at = self._world.now
        if service is not None:
            attempt.reported = Usage(service.prompt_tokens, service.completion_tokens, service.cached_tokens)
        if attempt is self.winner:
            self._finish(attempt, "succeeded")
            self._tell()
        elif job.demand.kind.request.stream:  # an answer whose first token is its last
            see(self._world.core, attempt)
            self._do(self._machine.visible(job.number, self._world.now))
            if attempt is self.winner:
                self._finish(attempt, "succeeded")
                self._tell()
        else:
            self._do(self._machine.finished(job.number, self._world.now))

    def failed(self, job: Job, error: ModelError) -> None:
        """As `Told`."""
        core, attempt = self._world.core, self.attempts[job.number]
        attempt.error, attempt.ended_at = error, self._world.now
        if turned_away(core, self.routing, attempt, error):
            core.health.released(error.model, began=attempt.started_at)
        else:
            core.health.failed(error.model, error, attempt.ended_at, began=attempt.started_at)
        if attempt is self.winner:
            self.ending = "interrupted"
            self._finish(attempt, "failed")
            self._tell()
            return
        attempt.outcome = "failed"
        self._end(attempt)
        self._do(self._machine.failed(job.number, error, attempt.ended_at))

    def silent(self, job: Job) -> None:
        """As `Told`."""
        del job
        if not self.over:
            self._arm()

    # --- the end ---

    def _end(self, attempt: LiveAttempt) -> None:
        """An attempt that did not win is over: stops it at its backend and books it."""
        self._leave(attempt)
        book(self._world.core, self.routing, attempt)

    def _leave(self, attempt: LiveAttempt) -> None:
        job = self._jobs[attempt.number]
        if job is None:
            return
        if not job.over:
            self._world.hosts[attempt.place].cancel(job)
        if not attempt.booked:
            seconds = None
            if attempt.outcome == "succeeded":
                seconds = (attempt.ended_at or self._world.now) - attempt.started_at
            self._world.chooser.ended(
                attempt.place, seconds, timed_out=isinstance(attempt.error, ModelTimeoutError)
            )

    def _finish(self, attempt: LiveAttempt, outcome: Outcome) -> None:
        """The winner is over; whether it was answered to its end or not."""
        self.winner, self.over = attempt, True
        attempt.outcome = outcome
        attempt.ended_at = attempt.ended_at or self._world.now
        if outcome != "succeeded" and attempt.usage is None:
            attempt.characters = self._read_so_far(attempt)
        self._leave(attempt)
        book(self._world.core, self.routing, attempt)

    def _read_so_far(self, attempt: LiveAttempt) -> int:
        """Characters of a stream that the caller got before it broke."""
        job = self._jobs[attempt.number]
        if job is None or job.service is None or attempt.visible_at is None:
            return 0
        took, service = self._world.now - attempt.visible_at, job.service
        share = took / max(service.total - service.ttft, 1e-9)
        return int(min(share, 1.0) * service.completion_tokens) * CHARACTERS_PER_TOKEN

    def _give_up(self, ending: Ending) -> None:
        """No attempt was answered."""
        self.over = True
        self.ending = ending.value
        for attempt in self.attempts:
            if attempt.outcome == "running":  # its token came too late: whoever brings it stops by itself
                attempt.outcome = "cancelled"
                self._end(attempt)
