"""What the tests of the batching engine share: a listener that keeps what it hears, and references."""

from __future__ import annotations

import threading
from pathlib import Path

from adapters.local.batching import BatchingEngine
from adapters.local.engine import Finish, Job, Sampling, Score
from adapters.local.sampling import Sampler, recommended
from router.errors import ModelError
from router.models import LocalModel
from tests.adapters.local.kit import Alone

__all__ = ["Greedy", "Heard", "engine_of", "job_of"]

COLD = Sampling(temperature=0)


class Heard:
    """A listener that keeps everything, and has enough after so many pieces."""

    def __init__(self, enough: int | None = None) -> None:
        self.enough = enough
        self.prompt_tokens = self.cached_tokens = -1
        self.pieces: list[bytes] = []
        self.finish: Finish | None = None
        self.count = -1
        self.error: ModelError | None = None
        self.begun, self.over = threading.Event(), threading.Event()

    def started(self, prompt_tokens: int, cached_tokens: int = 0) -> None:
        assert not self.begun.is_set()
        self.prompt_tokens, self.cached_tokens = prompt_tokens, cached_tokens
        self.begun.set()

    def piece(self, text: bytes, score: Score | None = None, /) -> bool:
        assert self.begun.is_set()
        assert not self.over.is_set()
        self.pieces.append(text)
        return self.enough is None or len(self.pieces) < self.enough

    def finished(self, finish: Finish, completion_tokens: int) -> None:
        assert not self.over.is_set()
        self.finish, self.count = finish, completion_tokens
        self.over.set()

    def failed(self, error: ModelError) -> None:
        assert not self.over.is_set()
        self.error = error
        self.over.set()

    @property
    def text(self) -> bytes:
        assert self.over.wait(60)
        if self.error is not None:
            raise self.error
        return b"".join(self.pieces)


def engine_of(path: Path, **options: object) -> BatchingEngine:
    """One thread: then llama.cpp rounds one row as it rounds several, however much is in memory."""
    return BatchingEngine(LocalModel.parse({"name": "m", "path": path, "threads": 1, **options}))


def job_of(
    prompt: str, most: int = 8, *, session: str | None = None, heard: Heard | None = None
) -> tuple[Job, Heard]:
    """A greedy job, and who hears it."""
    heard = heard or Heard()
    return Job(prompt=prompt, listener=heard, sampling=COLD, max_tokens=most, session=session), heard


class Greedy:
    """What a model says when it is asked alone, one token after the other, from an empty memory."""

    def __init__(self, path: Path, n_ctx: int, *, threads: int = 1) -> None:
        self.alone = Alone(path, n_ctx=n_ctx, threads=threads)
        self._said: dict[str, list[int]] = {}

    def pieces(self, prompt: str, most: int) -> list[bytes]:
        """The pieces of its answer, at most so many; shorter if it ended its turn."""
        if prompt not in self._said or len(self._said[prompt]) < most:
            self._said[prompt] = self._say(prompt, most)
        return [self._piece(token) for token in self._said[prompt][:most]]

    def gap(self, prompt: str, place: int, piece: bytes | None) -> float:
        """How much less likely than its own token another one is at a place of its answer.

        Args:
            prompt: Of an answer that was asked for with `pieces`.
            place: How many tokens of it come before.
            piece: The other token's bytes; None: the end of the turn.

        Returns:
            The difference of the logits; 0 is as likely.
        """
        model = self.alone.model
        self.alone.reset()
        self.alone.decode(model.tokenize(prompt))
        for token in self._said[prompt][:place]:
            self.alone.decode([token])
        logits = self.alone.logits()
        others = [
            token
            for token in range(model.n_vocab)
            if (model.ends_turn(token) if piece is None else self._piece(token) == piece)
        ]
        return float(logits.max() - logits[others].max())

    def _piece(self, token: int) -> bytes:
        return self.alone.model.piece(token, special=False)

    def _say(self, prompt: str, most: int) -> list[int]:
        model, said = self.alone.model, list[int]()
        sampler = Sampler(model, recommended(COLD, {}), None)
        self.alone.reset()
        tokens = model.tokenize(prompt)
        try:
            while len(said) < most:
                self.alone.decode(tokens)
                tokens = [self.alone.sample(sampler)]
                if model.ends_turn(tokens[0]):
                    break
                said += tokens
        finally:
            sampler.close()
        return said

    def close(self) -> None:
        self.alone.close()
