"""What the app waits for from an engine's process, by number. Not locked: its owner is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adapters.local.engine import Job, Opened
from adapters.local.isolation.messages import Heard, Open, Submit
from adapters.local.isolation.wire import job_fields
from router.errors import ModelError

__all__ = ["Ticket", "Tickets"]

#: What a child may have a listener told.
_METHODS = frozenset({"started", "piece", "finished", "failed"})


@dataclass(slots=True, eq=False)
class Ticket:
    """A job that the child has.

    Attributes:
        job: The job.
        running: Whether the child has begun with it.
        pieces: How many pieces were listened to.
    """

    job: Job
    running: bool = False
    pieces: int = 0

    def tell(self, event: Heard) -> bool:
        """Tells the listener what the child's engine told. False: it has had enough.

        Raises:
            ValueError: if a listener is told no such thing.
        """
        if event.method not in _METHODS:
            raise ValueError(event.method)
        go_on = getattr(self.job.listener, event.method)(*event.told, **event.named)
        self.pieces += event.method == "piece"
        return event.method != "piece" or bool(go_on)


class Tickets:
    """Jobs and openings under way.

    Attributes:
        running: Jobs that the child has begun with.
    """

    def __init__(self) -> None:
        self.running = 0
        self._last = 0
        self._opening: dict[int, Opened] = {}
        self._jobs: dict[int, Ticket] = {}
        self._numbers: dict[Job, int] = {}

    def __bool__(self) -> bool:
        """Whether anything is under way."""
        return bool(self._opening or self._jobs)

    @property
    def waiting(self) -> int:
        """Jobs and openings that the child has not begun with; may be read from any thread."""
        return len(self._opening) + max(0, len(self._jobs) - self.running)

    def add_opening(self, told: Opened) -> int:
        """Its number."""
        self._last += 1
        self._opening[self._last] = told
        return self._last

    def add_job(self, job: Job) -> int:
        """Its number."""
        self._last += 1
        self._jobs[self._last] = Ticket(job)
        self._numbers[job] = self._last
        return self._last

    def number(self, job: Job) -> int | None:
        """The number of a job that is under way."""
        return self._numbers.get(job)

    def ticket(self, number: int) -> Ticket | None:
        """The ticket of a job that is under way."""
        return self._jobs.get(number)

    def begin(self, ticket: Ticket) -> None:
        """The child has begun with the job."""
        self.running += not ticket.running
        ticket.running = True

    def end_opening(self, number: int) -> Opened | None:
        """Whom to tell; None if nobody is."""
        return self._opening.pop(number, None)

    def forget(self, told: Opened) -> None:
        """Somebody does not want to hear of an opening any more."""
        for number in [number for number, one in self._opening.items() if one is told]:
            del self._opening[number]

    def end_job(self, number: int) -> Ticket | None:
        """The ticket; None if the job was over."""
        ticket = self._jobs.pop(number, None)
        if ticket is not None:
            del self._numbers[ticket.job]
            self.running -= ticket.running
        return ticket

    @property
    def newest(self) -> int:
        """The highest number that was given."""
        return self._last

    def messages(self) -> list[Open | Submit]:
        """What a child that has heard nothing yet must be told."""
        return [
            *map(Open, self._opening),
            *(Submit(number, job_fields(ticket.job)) for number, ticket in self._jobs.items()),
        ]

    def end_all(self, newest: int | None = None) -> list[Callable[[ModelError], object]]:
        """Whom to tell that nothing more will come; those up to this number, None: all."""
        ends = self._last if newest is None else newest
        openings = [number for number in self._opening if number <= ends]
        told: list[Callable[[ModelError], object]] = [self._opening.pop(number) for number in openings]
        for number in [number for number in self._jobs if number <= ends]:
            ticket = self.end_job(number)
            if ticket is not None:
                told.append(ticket.job.listener.failed)
        return told
