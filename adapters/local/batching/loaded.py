"""A loaded model: what jobs need of it before anything is computed. For the thread that owns it alone."""

from __future__ import annotations

from collections.abc import Callable

from adapters.local.context import NativeContext
from adapters.local.engine import Job, ModelFacts
from adapters.local.files import advice, check_file, check_hash, load_settings
from adapters.local.native import LoadSettings, NativeError, NativeModel
from adapters.local.sampling import GrammarError, Sampler, recommended
from router.errors import ContextWindowExceededError, ModelHTTPError, ModelLoadError, ModelProtocolError
from router.models import LocalModel

__all__ = ["Loaded", "cells_for"]

#: Finished sequences that are kept beside the running ones.
_KEPT_SEQUENCES = 24
#: Cells beside those of one request's whole window, and the most memory they may take, in bytes.
_EXTRA_CELLS, _EXTRA_BYTES = 8192, 1 << 30


def cells_for(window: int, slots: int, bytes_per_token: int) -> int:
    """Tokens of context to hold in memory, of all requests together.

    One request alone can always use its whole window. What is beyond that is for the others, and for
    beginnings that are kept: the rest of the windows, but at most 8,192 tokens and a gigabyte.
    """
    extra = min((slots - 1) * window, _EXTRA_CELLS, _EXTRA_BYTES // max(1, bytes_per_token))
    return window + extra


class Loaded:
    """A model, its context and its vocabulary.

    Attributes:
        facts: What it says of itself.
        context: Where it computes.
        shares: Whether sequences can share beginnings.
        sequences: How many sequences its context has for chats ...
        plugs: ... and how many more to hold free cells.

    Args:
        model: What to load.
        go_on: Asked while loading; False ends it early, with an error.
        slots: Requests at work at once, at most.

    Raises:
        ModelLoadError: with the reason, and what to do.
    """

    def __init__(self, model: LocalModel, go_on: Callable[[], bool], *, slots: int) -> None:
        self._name = model.name
        check_file(model)
        check_hash(model, go_on)
        if not go_on():
            raise ModelLoadError("closed while loading", model=model.name)
        try:
            settings = load_settings(model)
            self._native = NativeModel(settings)
            try:
                self.context = self._make_context(settings, slots)
            except BaseException:
                self._native.close()
                raise
        except NativeError as error:
            text = f"{model.path} cannot be loaded: {error}; {advice(str(error))}"
            raise ModelLoadError(text, model=model.name) from error
        except (MemoryError, OSError) as error:
            text = f"{model.path} cannot be loaded: {str(error) or 'no memory'}; {advice('memory')}"
            raise ModelLoadError(text, model=model.name) from error
        self._pieces: dict[int, tuple[bytes, str, bytes]] = {}
        self._ends: dict[int, bool] = {}
        self.shares = self._native.shareable
        self.facts = ModelFacts(
            n_ctx=self._native.n_ctx,
            bos=self._native.token_text(self._native.bos),
            eos=self._native.token_text(self._native.eos),
            metadata=self._native.metadata(),
        )

    def _make_context(self, settings: LoadSettings, slots: int) -> NativeContext:
        window = self._native.n_ctx
        self.sequences = slots + _KEPT_SEQUENCES
        self.plugs = self.sequences if self._native.shareable else 0
        sequences = self.sequences + self.plugs
        cells = cells_for(window, slots, self._native.bytes_per_token)
        try:
            return NativeContext(self._native, settings, cells=cells, sequences=sequences)
        except NativeError:
            if cells == window:
                raise
            return NativeContext(self._native, settings, cells=window, sequences=sequences)

    def close(self) -> None:
        """Frees the model."""
        self.context.close()
        self._native.close()

    def tokens(self, job: Job) -> list[int]:
        """The job's prompt as tokens, counted against the context window.

        Raises:
            ContextWindowExceededError: if the prompt and the answer asked for (or one token) do not fit.
            ModelProtocolError: if there is nothing to answer.
        """
        try:
            tokens = self._native.tokenize(job.prompt)
        except NativeError as error:
            raise ModelProtocolError(str(error), model=self._name) from error
        if not tokens:
            raise ModelProtocolError("the chat template rendered nothing", model=self._name)
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
            return Sampler(self._native, recommended(job.sampling, self.facts.metadata), job.grammar)
        except GrammarError as error:
            text = f"the schema cannot be held: {error}"
            raise ModelHTTPError(text, model=self._name, status_code=400, code="invalid_schema") from error

    def ends_turn(self, token: int) -> bool:
        """Whether a token ends the answer; looked up once per token."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = self._native.ends_turn(token)
        return known

    def piece(self, token: int, job: Job) -> bytes:
        """The token's bytes as this job sees them; looked up once per token."""
        known = self._pieces.get(token)
        if known is None:
            shown = self._native.piece(token, special=True)
            known = (self._native.piece(token, special=False), shown.decode("utf-8", "replace"), shown)
            self._pieces[token] = known
        plain, text, shown = known
        return shown if job.grammar is not None or text in job.visible else plain
