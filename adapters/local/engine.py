"""The seam between the local adapter and what computes: jobs go in, pieces of text come out.

An engine knows tokens, sampling and grammars. It knows nothing of chat templates, tools, JSON schemas or
OpenAI's types: those live above it, so that one engine can take another's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from router.adapter import Load
from router.errors import ModelError

__all__ = [
    "Engine",
    "Finish",
    "Job",
    "Listener",
    "ModelFacts",
    "Opened",
    "Prelude",
    "Sampling",
    "Score",
]

Finish = Literal["stop", "length"]
"""`stop`: the model ended its turn, or the listener had enough; `length`: no token more was allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a loaded model says of itself.

    Attributes:
        n_ctx: Tokens of prompt and answer together.
        bos: The text of its begin-of-sequence token; empty if it has none.
        eos: The text of its end-of-sequence token; empty if it has none.
        metadata: The file's key-value pairs, arrays left out.
        control: The texts of its control tokens: what structures a prompt, and must not come from a user.
    """

    n_ctx: int
    bos: str
    eos: str
    metadata: Mapping[str, str]
    control: frozenset[str] = frozenset()

    @property
    def architecture(self) -> str:
        """`llama`, `qwen3`, ...; empty if the file does not say."""
        return self.metadata.get("general.architecture", "")

    @property
    def chat_template(self) -> str | None:
        """The file's own Jinja chat template, if it has one."""
        return self.metadata.get("tokenizer.chat_template")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. None: what the file recommends, or else llama.cpp's own default.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: Nucleus sampling.
        top_k: The most tokens to draw from; 0: all.
        min_p: The least probability, relative to the likeliest token's.
        repetition_penalty: 1 is none.
        frequency_penalty: By OpenAI's definition, over the generated tokens.
        presence_penalty: By OpenAI's definition, over the generated tokens.
        logit_bias: Added to the logits, by token id.
        seed: None: a fresh one.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a token was, by the model's raw distribution: before biases, penalties and temperature.

    Attributes:
        logprob: The natural logarithm of its probability, at least -9999.
        top: The likeliest tokens in its place, the likeliest first: their bytes, and the same of them.
    """

    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Prelude:
    """Free text before what a grammar holds: a model's thoughts.

    Attributes:
        closing: The text that ends it. The grammar holds from there on.
        without: Texts that must not stand in it, since whoever reads it would take them for its end.
    """

    closing: str
    without: frozenset[str] = frozenset()


class Listener(Protocol):
    """Hears what becomes of a job, on the engine's thread; it must be quick and must not raise."""

    def started(self, prompt_tokens: int, cached_tokens: int = 0) -> None:
        """The prompt's prefill begins; `cached_tokens` of it need not be computed. Told once."""
        ...

    def piece(self, text: bytes, score: Score | None = None, /) -> bool:
        """One token's bytes, which may split a character. False: no more, please.

        The score is given if and only if the job asks for it.
        """
        ...

    def finished(self, finish: Finish, completion_tokens: int) -> None:
        """The answer is complete. The end-of-turn token is not counted."""
        ...

    def failed(self, error: ModelError) -> None:
        """There will be no (more of the) answer. Not told of a job that was cancelled."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One answer to generate.

    Attributes:
        prompt: The rendered chat, special tokens included.
        borders: Places in the prompt, in characters and in order, across which no token goes: what looks like
            a special token there is text.
        listener: Who is told.
        sampling: How tokens are drawn.
        max_tokens: The most tokens to generate; None: as many as the context holds.
        grammar: GBNF that the answer must match; None: free text.
        prelude: What may come before what the grammar holds; None: nothing.
        logprobs: How many alternatives each token's score has; None: no scores are wanted.
        visible: Control tokens, by their text, that the listener is told of; all others have no bytes
            (unless there is a grammar, which sees every token's text).
        session: Whom it belongs to: sessions take turns. None is one of them.
        private: Whether nothing that is computed for it may be written to a disk.
        cancelled: Set by `Engine.cancel`; the engine looks at it before every step.
    """

    prompt: str
    borders: tuple[int, ...] = ()
    listener: Listener
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    grammar: str | None = None
    prelude: Prelude | None = None
    logprobs: int | None = None
    visible: frozenset[str] = frozenset()
    session: str | None = None
    private: bool = False
    cancelled: bool = False


Opened: TypeAlias = Callable[[ModelFacts | ModelError], None]
"""Is told what was loaded or why it could not be: at once, or later on the engine's thread."""


class Engine(Protocol):
    """Generates text with one model. All methods may be called from any thread and return at once."""

    def open(self, told: Opened) -> None:
        """Loads the model if it is not loaded, and tells. A failed load is tried again at the next call.

        Raises:
            ModelError: if the engine is closed, full, or belongs to the process this one forked from.
        """
        ...

    def give_up(self, told: Opened) -> None:
        """Nobody waits for what `open` would tell any more: a load that nobody else wants is given up."""
        ...

    def submit(self, job: Job) -> None:
        """Queues a job. The model is loaded first if it is not.

        Raises:
            ModelError: as `open`.
        """
        ...

    def cancel(self, job: Job) -> None:
        """Stops a job before its next token, or takes it out of the queue. Does nothing if it is over."""
        ...

    def load(self) -> Load:
        """How busy the engine is."""
        ...

    def close(self, *, wait: float = 2.0) -> None:
        """Fails what is running and waiting, ends the thread and frees the model. May be called twice.

        Args:
            wait: Seconds to wait for the thread to end; the one wait in this interface.
        """
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing of the engine runs (any more)."""
        ...
