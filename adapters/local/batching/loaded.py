"""A loaded model: what jobs need of it before anything is computed. For the thread that owns it alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from adapters.local.batching.disk import disk_of
from adapters.local.batching.shelf import shelf_of
from adapters.local.context import NativeContext
from adapters.local.engine import Job, ModelFacts, Score
from adapters.local.files import advice, check_hash, check_unchanged, load_settings
from adapters.local.native import LoadSettings, NativeError, NativeModel
from adapters.local.residency.prediction import KEPT_SEQUENCES, cells_for
from adapters.local.sampling import GrammarError, Grammars, Sampler, recommended
from adapters.local.scoring import likeliest
from adapters.local.threads import tune
from adapters.local.weights import WEIGHTS, give_memory_back
from router.errors import ContextWindowExceededError, ModelHTTPError, ModelLoadError, ModelProtocolError
from router.failures import BAD_TEMPLATE
from router.models import LocalModel

__all__ = ["Loaded", "cells_for"]


class Loaded:
    """A model, its context and its vocabulary.

    Attributes:
        facts: What it says of itself.
        context: Where it computes.
        shares: Whether sequences can share beginnings.
        sequences: How many sequences its context has for chats ...
        plugs: ... and how many more to hold free cells.
        shelf: Where finished chats wait outside of its cells; None: nowhere.
        disk: Where beginnings go that are to outlast it; None: nowhere.

    Args:
        model: What to load.
        go_on: Asked while loading; False ends it early, with an error.
        slots: Requests at work at once, at most.
        cells: Tokens of context to hold in memory, of all requests together.

    Raises:
        ModelLoadError: with the reason, and what to do.
    """

    def __init__(self, model: LocalModel, go_on: Callable[[], bool], *, slots: int, cells: int) -> None:
        self._name = model.name
        hashed = check_hash(model, go_on)
        if not go_on():
            raise ModelLoadError("it was not wanted any more", model=model.name)
        began = time.monotonic()
        self._stack = ExitStack()
        try:
            with ExitStack() as stack:
                self._load(model, go_on, slots, cells, stack)
                check_unchanged(model, hashed)
                if model.threads == "auto":
                    tune(self.context, loading=time.monotonic() - began)
                self._describe(model)
                self._stack = stack.pop_all()
        except NativeError as error:
            text = f"{model.path} cannot be loaded: {error}; {advice(str(error))}"
            raise ModelLoadError(text, model=model.name) from error
        except (MemoryError, OSError) as error:
            text = f"{model.path} cannot be loaded: {str(error) or 'no memory'}; {advice('memory')}"
            raise ModelLoadError(text, model=model.name) from error
        self._pieces: dict[int, tuple[bytes, str, bytes] | None] = {}

    def _load(
        self, model: LocalModel, go_on: Callable[[], bool], slots: int, cells: int, stack: ExitStack
    ) -> None:
        settings = load_settings(model)
        stack.callback(give_memory_back)
        self._weights = WEIGHTS.take(settings, go_on)
        stack.callback(WEIGHTS.give_back, self._weights)
        self._native = NativeModel(settings, self._weights.native)
        stack.callback(self._native.close)
        self.context = self._make_context(settings, slots, cells)
        stack.callback(self.context.close)
        self._grammars = Grammars()
        stack.callback(self._grammars.close)

    def _describe(self, model: LocalModel) -> None:
        self.shares = self._native.shareable
        self.facts = ModelFacts(
            n_ctx=self._native.n_ctx,
            bos=self._native.token_text(self._native.bos),
            eos=self._native.token_text(self._native.eos),
            metadata=self._native.metadata(),
            control=self._native.control,
        )
        scratch = self.sequences + self.plugs
        self.shelf = shelf_of(self.context, scratch, self.facts.n_ctx) if self.shares else None
        self.disk = disk_of(model, self.context, self.facts, scratch) if self.shares else None

    @property
    def fixed(self) -> int | None:
        """Bytes of its weights that the system cannot drop and read again; None: unknown."""
        return self._weights.fixed

    def _make_context(self, settings: LoadSettings, slots: int, cells: int) -> NativeContext:
        window = self._native.n_ctx
        self.sequences = slots + KEPT_SEQUENCES
        sequences = 2 * self.sequences if self._native.shareable else self.sequences
        self.plugs = max(sequences - self.sequences - 1, 0)  # the last one is where copies come and go
        cells = max(cells, window)
        try:
            return NativeContext(self._native, settings, cells=cells, sequences=sequences)
        except NativeError:
            if cells == window:
                raise
            return NativeContext(self._native, settings, cells=window, sequences=sequences)

    def close(self) -> None:
        """Frees the model."""
        if self.shelf is not None:
            self.shelf.clear()
        self._stack.close()

    def tokens(self, job: Job) -> list[int]:
        """The job's prompt as tokens, counted against the context window.

        Raises:
            ContextWindowExceededError: if the prompt and the answer asked for (or one token) do not fit.
            ModelProtocolError: if there is nothing to answer.
        """
        try:
            tokens = self._native.tokenize(job.prompt, job.borders)
        except NativeError as error:
            raise ModelProtocolError(str(error), model=self._name) from error
        if not tokens or not job.prompt.strip():
            text = "the chat template rendered nothing"
            raise ModelProtocolError(text, model=self._name, code=BAD_TEMPLATE)
        if len(tokens) + (job.max_tokens or 1) > self.facts.n_ctx:
            asked = f" and {job.max_tokens} for the answer" if job.max_tokens else ""
            raise ContextWindowExceededError(
                f"{len(tokens)} prompt tokens{asked} do not fit into a context of {self.facts.n_ctx}",
                model=self._name,
                tokens=len(tokens),
                window=self.facts.n_ctx,
            )
        return tokens

    def sampler(self, job: Job) -> Sampler:
        """What draws the job's tokens.

        Raises:
            ModelHTTPError: 400, if llama.cpp cannot compile its grammar.
        """
        try:
            sampling = recommended(job.sampling, self.facts.metadata)
            return Sampler(self._native, sampling, job.grammar, prelude=job.prelude, grammars=self._grammars)
        except GrammarError as error:
            text = f"the schema cannot be held: {error}"
            raise ModelHTTPError(text, model=self._name, status_code=400, code="invalid_schema") from error

    def score(self, row: int, token: int, most: int) -> Score:
        """How likely a token was after a row of the last step, and the likeliest others, at most so many."""
        logprob, top = likeliest(self.context.logits(row), token, most)
        return Score(logprob, tuple((self._native.piece(other, special=True), value) for other, value in top))

    def piece(self, token: int, job: Job) -> bytes | None:
        """The token's bytes as this job sees them, looked up once per token; None: it ends the answer."""
        try:
            known = self._pieces[token]
        except KeyError:
            known = self._pieces[token] = self._look_up(token)
        if known is None:
            return None
        plain, text, shown = known
        return shown if job.grammar is not None or text in job.visible else plain

    def _look_up(self, token: int) -> tuple[bytes, str, bytes] | None:
        """A token's bytes for most, its text, and its bytes for who is to see control tokens."""
        if self._native.ends_turn(token):
            return None
        shown = self._native.piece(token, special=True)
        return self._native.piece(token, special=False), shown.decode("utf-8", "replace"), shown
