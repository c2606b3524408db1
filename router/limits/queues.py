"""The lines of a router: one for each model, and for each task with limits of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from router.limits.counts import Counts
from router.limits.hall import Hall
from router.limits.limiter import Limiter
from router.limits.store import NO_LIMITS, Limits, LimitStore

if TYPE_CHECKING:
    from router.allowances import RateLimit
    from router.profile import Profile

__all__ = ["Queues"]

_Scope = tuple[str | None, str | None]


class Queues:
    """Finds the line that a request to a model stands in.

    Without limits of the router or of a task every model with limits has one line, and the others have none.
    With such limits, all lines share them.
    """

    def __init__(
        self, limits: Iterable[RateLimit], profiles: Mapping[str, Profile], store: LimitStore | None
    ) -> None:
        """Nothing was sent yet.

        Args:
            limits: Of the router and of tasks.
            profiles: Of the models, by name.
            store: Where other processes' requests are counted, too; None: this process is alone.
        """
        self._store = store
        self._lock = threading.Lock()
        self._hall = Hall()
        self._gates = _gates_of(limits)
        self._tasks = {task for task, _ in self._gates}
        self._lines: dict[tuple[str, str | None], Limiter] = {}
        #: By task: replaced and never changed, since decisions read them without the lock.
        self._of: dict[str | None, dict[str, Limiter]] = {task: {} for task in {None, *self._tasks}}
        self._declare(profiles)

    def get(self, name: str, task: str | None = None) -> Limiter | None:
        """The line for requests of a task to a model; None if nothing limits them."""
        return self.of(task).get(name)

    def of(self, task: str | None) -> Mapping[str, Limiter]:
        """The lines for requests of a task, by model; models that nothing limits are not listed."""
        return self._of[task if task in self._tasks else None]

    def __getitem__(self, name: str) -> Limiter:
        """The line for requests of no task in particular."""
        return self._of[None][name]

    def __iter__(self) -> Iterator[Limiter]:
        """All lines."""
        return (line for lines in self._of.values() for line in lines.values())

    def waiting(self, name: str) -> int:
        """How many requests wait for their turn at a model."""
        return sum(lines[name].waiting for lines in self._of.values() if name in lines)

    def learn(self, name: str, running: Callable[[], int]) -> Limiter:
        """The line of a model that declares no limit, and was seen to have one.

        `running` says how many requests are under way there, none of which asked for a turn.
        """
        with self._lock:
            line = self._of[None].get(name)
            if line is None:
                line = Limiter(NO_LIMITS, model=name)
                line.count_strangers(running())
                self._of[None] = {**self._of[None], name: line}
            return line

    def forget(self, name: str) -> None:
        """A model was not seen to have a limit for long."""
        with self._lock:
            self._of[None] = {other: line for other, line in self._of[None].items() if other != name}

    def update(self, profiles: Mapping[str, Profile], changed: set[str]) -> None:
        """The models were replaced; `changed` are those that are new, or not what they were."""
        with self._lock:
            for task, lines in self._of.items():
                self._of[task] = {n: line for n, line in lines.items() if n in profiles and n not in changed}
            self._declare(profiles)

    def after_fork(self) -> None:
        """In a child process: nothing of the parent's is running or waiting here."""
        self._lock = threading.Lock()
        for line in self:
            line.after_fork()

    def _declare(self, profiles: Mapping[str, Profile]) -> None:
        for name, profile in profiles.items():
            if all(name in lines for lines in self._of.values()):
                continue
            limits = Limits(profile.rpm, profile.tpm, profile.max_concurrency)
            own = Counts(limits, name)
            for task, lines in self._of.items():
                if name in lines:
                    continue
                others = [
                    gate
                    for (only_task, only_model), gate in self._gates.items()
                    if only_task in (None, task) and only_model in (None, name)
                ]
                if self._gates:
                    lines[name] = Limiter(
                        limits, model=name, store=self._store, hall=self._hall, gates=(own, *others)
                    )
                elif limits != NO_LIMITS:
                    lines[name] = Limiter(limits, model=name, store=self._store)


def _gates_of(limits: Iterable[RateLimit]) -> dict[_Scope, Counts]:
    """What is counted together; of several limits of one scope the least hold."""
    found: dict[_Scope, Limits] = {}
    for limit in limits:
        scope = (limit.task, limit.model)
        before = found.get(scope, NO_LIMITS)
        found[scope] = Limits(
            _least(before.rpm, limit.rpm),
            _least(before.tpm, limit.tpm),
            _least(before.max_concurrency, limit.max_concurrency),
        )
    # No model is called so: a name has nothing unprintable in it.
    return {
        (task, model): Counts(each, f"limit\n{task or ''}\n{model or ''}")
        for (task, model), each in found.items()
    }


def _least(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)
