"""One loaded model at work: prompts to tokens, tokens to answers. For the thread that owns it alone."""

from __future__ import annotations

from collections.abc import Callable

from adapters.local.engine import Finish, Job, ModelFacts
from adapters.local.files import advice, check_file, check_hash, load_settings
from adapters.local.native import STEP_TOKENS, DecodeError, NativeError, NativeModel
from adapters.local.sampling import GrammarError, Sampler, recommended
from adapters.local.turns import TURN
from router.errors import (
    ContextWindowExceededError,
    ModelError,
    ModelHTTPError,
    ModelLoadError,
    ModelProtocolError,
)
from router.models import LocalModel

__all__ = ["Generator"]


class Generator:
    """A loaded model and how to generate with it.

    Args:
        model: What to load.
        go_on: Asked while loading; False ends it early, with an error.

    Raises:
        ModelLoadError: with the reason, and what to do.
    """

    def __init__(self, model: LocalModel, go_on: Callable[[], bool]) -> None:
        self._name = model.name
        check_file(model)
        check_hash(model, go_on)
        if not go_on():
            raise ModelLoadError("closed while loading", model=model.name)
        try:
            self._native = NativeModel(load_settings(model))
        except NativeError as error:
            text = f"{model.path} cannot be loaded: {error}; {advice(str(error))}"
            raise ModelLoadError(text, model=model.name) from error
        except (MemoryError, OSError) as error:
            text = f"{model.path} cannot be loaded: {str(error) or 'no memory'}; {advice('memory')}"
            raise ModelLoadError(text, model=model.name) from error
        self._pieces: dict[int, tuple[bytes, str, bytes]] = {}
        self.facts = ModelFacts(
            n_ctx=self._native.n_ctx,
            bos=self._native.token_text(self._native.bos),
            eos=self._native.token_text(self._native.eos),
            metadata=self._native.metadata(),
        )

    def close(self) -> None:
        """Frees the model."""
        self._native.close()

    def abort(self, *, now: bool = True) -> None:
        """Breaks off the step in progress, and all later ones until `now=False`; from any thread."""
        self._native.abort(now=now)

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
        if len(tokens) + (job.max_tokens or 1) > self._native.n_ctx:
            asked = f" and {job.max_tokens} for the answer" if job.max_tokens else ""
            raise ContextWindowExceededError(
                f"{len(tokens)} prompt tokens{asked} do not fit into a context of {self._native.n_ctx}",
                model=self._name,
                tokens=len(tokens),
                window=self._native.n_ctx,
            )
        return tokens

    def run(self, job: Job, tokens: list[int], between: Callable[[], None]) -> tuple[Finish, int] | None:
        """Generates one answer; the listener hears every token.

        Args:
            job: What to generate.
            tokens: Its prompt (see `tokens`).
            between: Called after every step.

        Returns:
            Why it ended and how many tokens it has; None if it was cancelled.

        Raises:
            ModelError: if it breaks.
        """
        try:
            return self._run(job, tokens, between)
        except (DecodeError, GrammarError) as error:
            if job.cancelled:
                return None
            raise ModelProtocolError(f"generation broke off: {error}", model=self._name) from error

    def _run(self, job: Job, tokens: list[int], between: Callable[[], None]) -> tuple[Finish, int] | None:
        sampler = self._sampler(job)
        try:
            self._native.reset()
            for start in range(0, len(tokens), STEP_TOKENS):
                if job.cancelled:
                    return None
                self._step(tokens[start : start + STEP_TOKENS], between)
            if not self._native.sane:
                raise ModelProtocolError(
                    "the model computes no numbers: its file is damaged", model=self._name
                )
            room = self._native.n_ctx - len(tokens)
            return self._answer(job, sampler, min(job.max_tokens or room, room), between)
        finally:
            sampler.close()

    def _answer(
        self, job: Job, sampler: Sampler, most: int, between: Callable[[], None]
    ) -> tuple[Finish, int] | None:
        count = 0
        while not job.cancelled:
            token = self._native.sample(sampler)
            if self._native.ends_turn(token):
                return "stop", count
            count += 1
            if not job.listener.piece(self._piece(token, job)):
                return "stop", count
            if count >= most:
                return "length", count
            self._step([token], between)
        return None

    def _step(self, tokens: list[int], between: Callable[[], None]) -> None:
        with TURN:
            self._native.decode(tokens)
        between()

    def _sampler(self, job: Job) -> Sampler:
        try:
            return Sampler(self._native, recommended(job.sampling, self.facts.metadata), job.grammar)
        except GrammarError as error:
            raise self._bad_schema(error) from error

    def _bad_schema(self, error: GrammarError) -> ModelError:
        text = f"the schema cannot be held: {error}"
        return ModelHTTPError(text, model=self._name, status_code=400, code="invalid_schema")

    def _piece(self, token: int, job: Job) -> bytes:
        """The token's bytes as this job sees them; looked up once per token."""
        known = self._pieces.get(token)
        if known is None:
            shown = self._native.piece(token, special=True)
            known = (self._native.piece(token, special=False), shown.decode("utf-8", "replace"), shown)
            self._pieces[token] = known
        plain, text, shown = known
        return shown if job.grammar is not None or text in job.visible else plain
