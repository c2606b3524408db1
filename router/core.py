"""What both faces share: the state of a router, and the way of a request up to its decision.

State is loop-free and under locks: one core serves many threads, tasks and event loops at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from router.adapter import AdapterSettings
from router.closing import close_all, close_in_background
from router.config import RouterConfig
from router.decision import Decision
from router.errors import OverloadedError, RouterClosedError, RouterError
from router.fleet import Fleet
from router.health import Health, RetryBudget
from router.learning import Columns
from router.ledger import Exchange, Ledger
from router.limits import Limiter, Queues
from router.models import Model
from router.prefixes import PrefixMemory
from router.pressure import Pressure
from router.profile import Profile
from router.remembering import remember
from router.stalls import Gaps
from router.traffic import Traffic

if TYPE_CHECKING:
    from router.driver import Run
    from router.live import LiveAttempt
    from router.routing import Routing
    from router.testing.clock import Clock

__all__ = ["Core"]

#: Attempts of earlier runs of each model that a router learns from when it starts: some 10 ms a model.
MOST_REMEMBERED = 200
#: Requests that a router has under way at most, waiting ones included. It bounds memory (some 30 kB each) and
#: nothing else: what a model can take is bounded by its limits, and by what it shows that it can do.
MOST_REQUESTS = 10_000
#: Seconds after which one that was turned away for that may come again.
BUSY_FOR = 1.0


@dataclass(slots=True)
class _Live:
    """What is under way: requests, and tasks that must not be collected while they run."""

    runs: set[Run] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class Core:
    """A router without a face.

    Args:
        config: What it is built from.
        clock: Tells the time, in seconds; a test may move it by hand.
    """

    def __init__(self, config: RouterConfig, clock: Clock | None = None) -> None:
        self.config = config
        self.now: Callable[[], float] = clock.now if clock is not None else time.monotonic
        self.wall: Callable[[], float] = clock.time if clock is not None else time.time
        self._settings = AdapterSettings(
            max_response_bytes=config.recovery.max_response_bytes, local_memory=config.local_memory
        )
        self._lock = threading.Lock()
        self.closed = False
        self._warm = False
        self._live = _Live()
        #: Answers that were dropped before their end and are not booked yet. Touched without a lock.
        self.orphans: dict[Run, LiveAttempt] = {}
        self.health = Health(config.recovery.failure_threshold, config.recovery.cooldown)
        self.retries = RetryBudget(config.recovery.retry_share)
        self.fleet = Fleet(config.models, self._settings)
        self.traffic = Traffic()
        self.pressure = Pressure()
        #: The gaps between the chunks of each model's streams.
        self.gaps: dict[str, Gaps] = {}
        self.prefixes = PrefixMemory(self._cached_share, self._kept_tokens)
        self.random = random.Random()  # noqa: S311 - exploration is no secret
        self.ledger = Ledger(
            config.ledger,
            config.budget,
            keep_text=config.keep_text,
            wall=self.wall,
            shared=config.shared,
        )
        self.limiters = Queues(config.limits, _profiles(self.fleet), self.ledger.limits)
        if config.ledger is not None:
            past = self.ledger.recent(MOST_REMEMBERED, models=self.fleet.names)
            remember(self.fleet, past, now=self.now(), wall=self.wall())
        for place, model in enumerate(self.fleet.models):
            if getattr(model, "preload", False):
                self.fleet.adapter(place)
        _CORES.add(self)

    def _cached_share(self, name: str) -> float:
        """What share of a prompt's known beginning a model is believed to have cached, before it told."""
        fleet = self.fleet
        return fleet.cached_share[fleet.place[name]] if name in fleet.place else 0.0

    def _kept_tokens(self, name: str) -> int | None:
        """Tokens that a model keeps while it is loaded; None: it keeps them by time."""
        fleet = self.fleet
        return fleet.kept[fleet.place[name]] if name in fleet.place else None

    def emptied(self, fleet: Fleet, place: int) -> None:
        """A model is not in memory, and what it had computed is not, either. Told often, it costs little."""
        if place not in fleet.recalling:
            self.prefixes.emptied(fleet.names[place])

    def warm(self) -> None:
        """Imports what the first answer needs. Slow once: not on an event loop."""
        if not self._warm:
            import router.completion
            import router.tokens

            router.tokens.warm()
            self._warm = bool(router.completion)

    @property
    def is_warm(self) -> bool:
        """Whether `warm` was called."""
        return self._warm

    def keep(self, task: asyncio.Task[None]) -> None:
        """Keeps a task from being collected while it runs."""
        self._live.tasks.add(task)
        task.add_done_callback(self._live.tasks.discard)

    def learn(self, fleet: Fleet, place: int, told: Callable[[Columns, int], None]) -> None:
        """Takes what an attempt showed into the fleet it came from, and into the newest.

        `told` is called with the columns to learn into and the model's place in them.
        """
        name = fleet.names[place]
        with self._lock:
            told(fleet.learned, place)
            newest = self.fleet
            if newest is not fleet and newest.same_backend(fleet, name):
                told(newest.learned, newest.place[name])

    def fade(self, fleet: Fleet, now: float) -> None:
        """Lets what was learned long ago count for less. Skipped while somebody else learns."""
        if self._lock.acquire(blocking=False):
            try:
                fleet.learned.refresh(now)
            finally:
                self._lock.release()

    def learn_limit(self, name: str) -> Limiter:
        """The limiter of a model that declares no limit, and was seen to have one."""
        flow = self.traffic.flows.get(name)
        return self.limiters.learn(name, lambda: 0 if flow is None else flow.running)

    def write_down(self, routing: Routing, decision: Decision, text: str) -> None:
        """Puts a finished request into the ledger, with its text only if the app asked for that."""
        if self.config.keep_text and not routing.rules.private:
            self.ledger.record(decision, exchange=Exchange(routing.request.messages, text))
        else:
            self.ledger.record(decision)

    def write_refusal(self, error: RouterError) -> None:
        """Puts a request that no model may take into the ledger."""
        if error.decision is not None:
            self.ledger.record(error.decision)

    def enter(self, run: Run) -> bool:
        """A request begins to use its fleet; False if that was replaced and closed since it was chosen.

        Raises:
            OverloadedError: if more requests are under way than a router keeps track of.
            RouterClosedError: if the router was closed.
        """
        self._bury_orphans()
        with self._lock:
            if self.closed:
                raise RouterClosedError
            if run.routing.fleet.retired:
                return False
            if len(self._live.runs) >= MOST_REQUESTS:
                error = OverloadedError(
                    f"{MOST_REQUESTS} requests are under way in this router", retry_after=BUSY_FOR
                )
                error.decision = run.routing.decision(model=None)
                raise error
            run.routing.fleet.users += 1
            self._live.runs.add(run)
            return True

    def _bury_orphans(self) -> None:
        """Books the streams that were dropped and whose loops did not come to it."""
        while self.orphans:
            with contextlib.suppress(KeyError):  # their loop, or another thread, has taken the last one
                run, attempt = self.orphans.popitem()
                run.forsake(attempt)

    def leave(self, run: Run) -> None:
        """A request is over; a fleet that was replaced ends with its last one."""
        fleet = run.routing.fleet
        with self._lock:
            if run not in self._live.runs:
                return
            self._live.runs.discard(run)
            fleet.users -= 1
            over = fleet.retired = fleet is not self.fleet and fleet.users <= 0
        if over:
            self._retire(fleet)

    def update(self, models: Sequence[Model]) -> None:
        """Replaces the models. Requests in flight end on those they began with.

        Raises:
            ConfigurationError: if the models do not fit together; then nothing changes.
        """
        if self.closed:
            raise RouterClosedError
        values = {name: getattr(self.config, name) for name in type(self.config).model_fields}
        config = RouterConfig(**{**values, "models": tuple(models)})
        fleet = Fleet(config.models, self._settings, before=self.fleet)
        with self._lock:
            old, self.fleet, self.config = self.fleet, fleet, config
            changed = {name for name in old.names if name not in fleet.place or not fleet.same_as(old, name)}
            self.limiters.update(_profiles(fleet), changed)
            idle = old.retired = old.users <= 0
        self.health.forget(changed)
        self.pressure.forget(changed)
        for name in changed:
            self.gaps.pop(name, None)
        self.prefixes.forget({name for name in changed if not fleet.same_backend(old, name)})
        if idle:
            self._retire(old)

    def _retire(self, fleet: Fleet) -> None:
        """Closes the adapters that no newer fleet uses, in the background."""
        used = {id(adapter) for adapter in self.fleet.adapters()}
        gone = [adapter for adapter in fleet.adapters() if id(adapter) not in used]
        close_in_background(gone, self.keep)

    async def aclose(self) -> None:
        """Ends every request, writes the ledger and frees the models. Idempotent."""
        with self._lock:
            self.closed = True
            runs = list(self._live.runs)
        for run in runs:
            run.stop()
        await asyncio.sleep(0)  # lets them begin to end
        here = asyncio.get_running_loop()
        tasks = [
            task
            for task in self._live.tasks
            if task.get_loop() is here and task is not asyncio.current_task()
        ]
        await asyncio.gather(*tasks, return_exceptions=True)
        self._bury_orphans()
        await close_all(self.fleet.adapters())
        await asyncio.to_thread(self.ledger.close)

    def after_fork(self) -> None:
        """In a child process: what belonged to the parent's threads is forgotten."""
        self._lock = threading.Lock()
        # Kept on purpose: tasks that are collected close their connections, in the parent's selector, too.
        _ABANDONED.append((self._live, self.orphans))
        self._live, self.orphans = _Live(), {}
        self.health.after_fork()
        self.retries.after_fork()
        self.traffic.after_fork()
        self.pressure.after_fork()
        self.prefixes.after_fork()
        self.fleet.after_fork()
        self.limiters.after_fork()


def _profiles(fleet: Fleet) -> dict[str, Profile]:
    return dict(zip(fleet.names, fleet.profiles, strict=True))


_CORES: weakref.WeakSet[Core] = weakref.WeakSet()
_ABANDONED: list[object] = []


def _after_fork_in_child() -> None:
    for core in list(_CORES):
        core.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
