"""A loaded model at work on many chats: step by step, each chat as if it were alone.

For the thread that owns the model alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from adapters.local.batching.chats import Chat
from adapters.local.batching.loaded import Loaded
from adapters.local.batching.memory import Memory
from adapters.local.batching.scheduler import BLOCK, Lane, Limits, Pace, begins_with, plan_step
from adapters.local.batching.separate import Separate
from adapters.local.batching.tree import common_prefix
from adapters.local.context import MOST_ROWS, DecodeError
from adapters.local.engine import Finish, Job
from adapters.local.sampling import GrammarError
from adapters.local.turns import TURN
from adapters.local.waking import flush
from router.errors import ModelError, ModelProtocolError

__all__ = ["Serving"]

#: Seconds that a piece of a prompt may add to the steps of the answers under way ...
_PATIENCE = 0.25
#: ... and that it may take when there are none: who comes meanwhile waits for its end.
_LONGEST_STEP = 1.0
_LEAST_PIECE = 8
#: Seconds of an answer that are told at once: no reader sees less.
_TOLD_EVERY = 0.015
#: Seconds for what is not yet on disk when the model leaves; closing waits two.
_PUTTING_AWAY = 1.0


class Serving:
    """The chats at work on one model.

    Attributes:
        running: The oldest first. Others may look at its length.

    Args:
        loaded: The model.
        name: Its name, for errors.
        go_on: Whether the engine is not closed.
    """

    def __init__(self, loaded: Loaded, name: str, go_on: Callable[[], bool]) -> None:
        self.running: list[Chat] = []
        self._loaded = loaded
        self._name = name
        self._go_on = go_on
        self._context = loaded.context
        self._memory = self._make_memory()
        self._pace = Pace(least=_LEAST_PIECE, most=MOST_ROWS, first=BLOCK)
        self._limits_of: tuple[float | None, Limits] | None = None
        self._turn = 0

    def _make_memory(self) -> Memory | Separate:
        cells, sequences = self._context.cells, self._loaded.sequences
        if not self._loaded.shares:
            return Separate(self._context, cells=cells, sequences=sequences)
        on_gpu = self._context.rows > BLOCK
        return Memory(
            self._context,
            cells=cells,
            window=self._loaded.facts.n_ctx,
            sequences=sequences,
            plugs=self._loaded.plugs,
            tile=0 if on_gpu else BLOCK,
            shelf=self._loaded.shelf,
            clear=not on_gpu,
            disk=self._loaded.disk,
        )

    @property
    def sessions(self) -> Counter[str | None]:
        """How many chats of each session are at work."""
        return Counter(chat.job.session for chat in self.running)

    def chat(self, job: Job) -> Chat:
        """A job, ready to wait for its turn.

        Raises:
            ModelError: if its prompt cannot be served.
        """
        tokens = self._loaded.tokens(job)
        room = self._loaded.facts.n_ctx - len(tokens)
        return Chat(tokens, job=job, prompt=len(tokens), most=min(job.max_tokens or room, room))

    def fits(self, chat: Chat) -> bool:
        """Whether there is memory for one more. Always, if there is none: one alone fits."""
        if not self.running:
            return True
        claimed = sum(other.claim for other in self.running) + chat.claim
        if claimed <= self._memory.free:
            return True
        room, held = self._memory.room_for(chat.tokens)
        if self._loaded.shares:  # what others are about to compute will be held
            held = max(held, *(common_prefix(chat.tokens, other.tokens) for other in self.running))
        return claimed - held <= room

    def begin(self, chat: Chat) -> None:
        """Begins with a chat that was put to the end of `running`; or tells it why not."""
        try:
            if chat.sampler is None:
                chat.sampler = self._loaded.sampler(chat.job)
        except ModelError as error:
            self._fail(chat, error)
        except Exception as error:  # noqa: BLE001 - one chat's failure must not end the thread that serves all
            self._fail(chat, ModelProtocolError(f"cannot begin: {error!r}", model=self._name))
        else:
            self._line_up(chat)

    def _line_up(self, chat: Chat) -> None:
        """Lets a chat wait for another one that computes the same beginning right now."""
        if not self._loaded.shares:
            return
        others: list[tuple[Lane, int]] = [
            (other, common_prefix(chat.tokens, other.tokens))
            for other in self.running[: self.running.index(chat)]
            if other.pending > 1
        ]
        begins_with(chat, self._memory.held(chat.tokens), others)

    def step(self) -> list[Chat]:
        """Computes one step for all, and tells them.

        Returns:
            Chats that had to make room; they can begin again later and lose nothing but time.
        """
        for chat in [chat for chat in self.running if chat.job.cancelled]:
            self._leave(chat)
        for chat in self.running:
            if chat.sequence is None and not chat.waits:
                self._place(chat)
        plan, evicted = self._plan()
        if plan:
            self._compute(plan)
        return evicted

    def _place(self, chat: Chat) -> None:
        chat.sequence, chat.computed = self._memory.open(chat.tokens, chat.expected, private=chat.job.private)
        chat.noted = chat.computed
        chat.behind, chat.shared = None, 0
        if not chat.answered:  # else it was told before it had to make room
            chat.job.listener.started(chat.prompt, chat.computed)

    def _plan(self) -> tuple[list[tuple[Chat, int]], list[Chat]]:
        evicted: list[Chat] = []
        limits = self._limits()
        self._turn += 1
        while True:
            placed = [chat for chat in self.running if chat.sequence is not None]
            plan = plan_step(placed, limits, self._turn)
            if self._memory.reclaim(sum(count for _, count in plan)) or len(placed) <= 1:
                return plan, evicted
            youngest = placed[-1]
            self._leave(youngest, keep=False, over=False)
            evicted.insert(0, youngest)

    def _limits(self) -> Limits:
        rows, pace = self._context.rows, self._pace
        if self._limits_of is None or self._limits_of[0] != pace.seconds:
            block = 0 if rows > BLOCK else max(BLOCK, pace.within(_LONGEST_STEP))
            limits = Limits(mixed=rows, piece=pace.within(_PATIENCE), block=block)
            self._limits_of = pace.seconds, limits
        return self._limits_of[1]

    def _compute(self, plan: list[tuple[Chat, int]]) -> None:
        placed = self._memory.place([(chat.sequence or 0, count) for chat, count in plan])
        work = []
        for chat, count in plan:
            start = chat.computed
            tokens = chat.tokens[start : start + count]
            last = start + count == len(chat.tokens)
            row = self._context.put(chat.sequence or 0, tokens, start, output=last)
            work.append((chat, tokens, row, last))
        flush(_TOLD_EVERY)
        try:
            with TURN:
                began = time.monotonic()
                self._context.compute([cell for cells in placed for cell in cells])
        except DecodeError as error:
            self._broken(plan, placed, error)
            return
        self._pace.took(row + 1, time.monotonic() - began)
        for chat, tokens, _, last in work:  # before anything is drawn: who is over leaves what it computed
            chat.computed += len(tokens)
            if not last or len(tokens) > 1:  # an answer is of no use for others before it is over
                self._note(chat)
        for chat, _, row, last in work:
            if last and not chat.job.cancelled:
                self._draw(chat, row)

    def _note(self, chat: Chat) -> None:
        """Lets others share what was computed."""
        self._memory.computed(chat.sequence or 0, chat.tokens[chat.noted : chat.computed])
        chat.noted = chat.computed

    def _broken(self, plan: Iterable[tuple[Chat, int]], placed: list[list[int]], error: DecodeError) -> None:
        """A step was broken off, or failed: nothing of it holds."""
        for chat, _ in plan:
            if chat.sequence is not None:
                self._context.cut(chat.sequence, chat.computed)
        self._memory.undo(
            [(chat.sequence or 0, cells) for (chat, _), cells in zip(plan, placed, strict=True)]
        )
        if not self._go_on() or any(chat.job.cancelled for chat in self.running):
            return  # that is why; the others compute it again
        for chat, _ in list(plan):
            self._fail(chat, ModelProtocolError(f"generation broke off: {error}", model=self._name))

    def _draw(self, chat: Chat, row: int) -> None:
        """The next token of a chat, or its end."""
        try:
            outcome = self._next(chat, row)
        except ModelError as error:
            self._fail(chat, error)
        except GrammarError as error:
            self._fail(chat, ModelProtocolError(f"generation broke off: {error}", model=self._name))
        except Exception as error:  # noqa: BLE001 - one chat's failure must not end the thread that serves all
            self._fail(chat, ModelProtocolError(f"generation failed: {error!r}", model=self._name))
        else:
            if outcome is not None:
                answered = chat.answered
                self._leave(chat)
                chat.job.listener.finished(outcome, answered)

    def _next(self, chat: Chat, row: int) -> Finish | None:
        if chat.sampler is None:
            raise ModelProtocolError("a chat without a sampler", model=self._name)
        if not chat.answered and not self._context.sane(row):
            raise ModelProtocolError("the model computes no numbers: its file is damaged", model=self._name)
        token, job = self._context.draw(chat.sampler, row), chat.job
        piece = self._loaded.piece(token, job)
        if piece is None:
            return "stop"
        chat.tokens.append(token)
        told = (piece,) if job.logprobs is None else (piece, self._loaded.score(row, token, job.logprobs))
        if not job.listener.piece(*told):
            return "stop"
        return "length" if chat.answered >= chat.most else None

    def _fail(self, chat: Chat, error: ModelError) -> None:
        self._leave(chat, keep=False)
        if not chat.job.cancelled:
            chat.job.listener.failed(error)

    def _leave(self, chat: Chat, *, keep: bool = True, over: bool = True) -> None:
        """Takes a chat out; `keep` what was computed for others, `over`: it will not come back."""
        if chat not in self.running:
            return
        self.running.remove(chat)
        if chat.sequence is not None:
            self._note(chat)
            self._memory.close(chat.sequence, keep=keep)
        chat.sequence, chat.computed, chat.behind, chat.shared = None, 0, None, 0
        if over:
            chat.release()
        for other in self.running:
            if other.behind is chat:
                self._line_up(other)

    def end(self, error: ModelError) -> None:
        """Fails all that run."""
        for chat in list(self.running):
            self._fail(chat, error)

    def rest(self, called: Callable[[], bool]) -> None:
        """Copies what was computed to the disk, if there is one, until somebody calls."""
        self._memory.save(called)

    def put_away(self) -> None:
        """The same before the model leaves memory, for a limited time."""
        end = time.monotonic() + _PUTTING_AWAY
        self._memory.save(lambda: time.monotonic() >= end)
        if self._loaded.disk is not None:
            self._loaded.disk.close(end - time.monotonic())
