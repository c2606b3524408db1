"""Draws tokens with llama.cpp's samplers. See `native` for what else is of llama.cpp."""

from __future__ import annotations

import codecs
import ctypes
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import llama_cpp.llama_cpp as c
import numpy as np

from adapters.local.engine import Prelude, Sampling
from adapters.local.native import NativeError, NativeModel
from adapters.local.preludes import Thoughts
from router.errors import ModelHTTPError

__all__ = ["GrammarError", "Grammars", "Sampler", "recommended"]

#: llama.cpp's own defaults (common/common.h), for what neither the caller nor the file says.
_TEMPERATURE, _TOP_P, _TOP_K, _MIN_P = 0.8, 0.95, 40, 0.05
_NO_PENALTIES = (1.0, 0.0, 0.0)
#: llama.cpp takes this seed for "any".
_ANY_SEED = 0xFFFFFFFF
#: Compiled grammars that are kept. Agents send the same few again and again; one takes up to some megabytes.
_MOST_GRAMMARS = 16


class GrammarError(NativeError):
    """A grammar cannot be compiled, or leads to where no token fits."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The vocabulary as llama.cpp's samplers want it, over memory that numpy fills."""

    rows: np.ndarray[Any, np.dtype[np.void]]
    ids: np.ndarray[Any, np.dtype[np.intc]]

    @classmethod
    def of(cls, n_vocab: int) -> _Candidates:
        row = np.dtype([("id", np.intc), ("logit", np.single), ("p", np.single)], align=True)
        return cls(np.zeros(n_vocab, dtype=row), np.arange(n_vocab, dtype=np.intc))

    def fill(self, logits: np.ndarray[Any, np.dtype[np.single]]) -> c.llama_token_data_array:
        self.rows["id"] = self.ids
        self.rows["logit"] = logits
        return _array(self.rows)


def _array(rows: np.ndarray[Any, np.dtype[np.void]]) -> c.llama_token_data_array:
    data = rows.ctypes.data_as(c.llama_token_data_p)
    return c.llama_token_data_array(data=data, size=len(rows), selected=-1, sorted=False)


def recommended(sampling: Sampling, metadata: Mapping[str, str]) -> Sampling:
    """Fills what the caller left open with what the file recommends, or else llama.cpp's defaults."""

    def number(key: str, default: float) -> float:
        try:
            return float(metadata.get(f"general.sampling.{key}", default))
        except ValueError:
            return default

    return replace(
        sampling,
        temperature=number("temp", _TEMPERATURE) if sampling.temperature is None else sampling.temperature,
        top_p=number("top_p", _TOP_P) if sampling.top_p is None else sampling.top_p,
        top_k=int(number("top_k", _TOP_K)) if sampling.top_k is None else sampling.top_k,
        min_p=number("min_p", _MIN_P) if sampling.min_p is None else sampling.min_p,
    )


def _penalties(sampling: Sampling) -> tuple[float, float, float]:
    return sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty


def _is_greedy(sampling: Sampling) -> bool:
    return not (sampling.temperature or sampling.logit_bias) and _penalties(sampling) == _NO_PENALTIES


def _compile(model: NativeModel, grammar: str) -> Any:
    compiled = c.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
    if not compiled:
        raise GrammarError("llama.cpp cannot compile the grammar")
    return compiled


class Grammars:
    """Compiled grammars of one model: the same one is compiled once. For the thread that owns the model."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def compiled(self, model: NativeModel, grammar: str) -> Any:
        """A compiled grammar at its beginning, which is the caller's to free.

        Raises:
            GrammarError: if llama.cpp cannot compile it.
        """
        kept = self._kept.pop(grammar, None)
        if kept is None:
            kept = _compile(model, grammar)
            while len(self._kept) >= _MOST_GRAMMARS:
                c.llama_sampler_free(self._kept.pop(next(iter(self._kept))))
        self._kept[grammar] = kept  # the one used last is the last to go
        return c.llama_sampler_clone(kept)

    def close(self) -> None:
        """Frees them."""
        while self._kept:
            c.llama_sampler_free(self._kept.popitem()[1])


class Sampler:
    """Draws the tokens of one answer. Used by the thread that owns the model.

    Args:
        model: Whose tokens.
        sampling: Complete (see `recommended`).
        grammar: GBNF that the answer must match; None: free text.
        prelude: What may come before what the grammar holds.
        grammars: Where compiled grammars are kept; None: nowhere.

    Raises:
        GrammarError: if llama.cpp cannot compile the grammar.
        ModelHTTPError: 400 `invalid_value`, if a bias is for a token that is none.
    """

    def __init__(
        self,
        model: NativeModel,
        sampling: Sampling,
        grammar: str | None,
        *,
        prelude: Prelude | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        self._model = model
        self._n_vocab = model.n_vocab
        self._open = b""  # the first bytes of a character that is not complete yet
        self._candidates = _Candidates.of(model.n_vocab if grammar is not None else 0)
        self._single = _Candidates.of(1)
        self._stack = ExitStack()
        self._chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        self._stack.callback(c.llama_sampler_free, self._chain)
        self._grammar: Any | None = None
        #: Whether the likeliest token is always taken. Of 49,152 numpy finds it in 3 us, llama.cpp's sampler,
        #: which copies them all first, in 40. They agree on ties: the first.
        self._greedy = _is_greedy(sampling)
        self._thoughts = Thoughts(model, prelude) if prelude is not None and grammar is not None else None
        try:
            self._build(sampling, model.n_ctx)
            if grammar is not None:
                kept = grammars.compiled(model, grammar) if grammars else _compile(model, grammar)
                self._stack.callback(c.llama_sampler_free, kept)
                self._grammar = kept
        except BaseException:
            self._stack.close()
            raise

    def _build(self, sampling: Sampling, n_ctx: int) -> None:
        """The order is llama.cpp's own: biases, penalties, cuts, temperature, the draw."""
        biases, penalties = sampling.logit_bias, _penalties(sampling)
        if beyond := [token for token in biases if not 0 <= token < self._n_vocab]:
            text = f"logit_bias.{beyond[0]}: no such token; the vocabulary ends with {self._n_vocab - 1}"
            raise ModelHTTPError(text, model=self._model.name, status_code=400, code="invalid_value")
        if biases:
            rows = (c.llama_logit_bias * len(biases))()
            for row, (token, bias) in zip(rows, biases.items(), strict=True):
                row.token, row.bias = token, bias
            self._add(c.llama_sampler_init_logit_bias(self._n_vocab, len(biases), rows))
        if penalties != _NO_PENALTIES:
            self._add(c.llama_sampler_init_penalties(self._n_vocab, n_ctx, *penalties))
        if not sampling.temperature:
            self._add(c.llama_sampler_init_greedy())
            return
        self._add(c.llama_sampler_init_top_k(sampling.top_k))
        self._add(c.llama_sampler_init_top_p(sampling.top_p, 1))
        self._add(c.llama_sampler_init_min_p(sampling.min_p, 1))
        self._add(c.llama_sampler_init_temp(sampling.temperature))
        seed = int.from_bytes(os.urandom(4), "little") if sampling.seed is None else sampling.seed & _ANY_SEED
        self._add(c.llama_sampler_init_dist(seed - 1 if seed == _ANY_SEED else seed))

    def _add(self, sampler: Any) -> None:
        c.llama_sampler_chain_add(self._chain, sampler)

    def close(self) -> None:
        """Frees the samplers."""
        self._stack.close()

    def draw(self, context: object, row: int, logits: np.ndarray[Any, np.dtype[np.single]]) -> int:
        """The next token after a row of a context's last step.

        Args:
            context: llama.cpp's.
            row: Which.
            logits: What was computed for it.

        Raises:
            GrammarError: if the grammar admits no token at all.
        """
        if self._grammar is None and not self._greedy:
            return int(c.llama_sampler_sample(self._chain, context, row))
        if self._grammar is None:
            return self._pick(logits)
        if self._thoughts is not None:
            return self._draw_thought(self._thoughts, logits)
        # Checking one token against a grammar is cheap, checking a vocabulary is not: draw freely first.
        token = self._pick(logits)
        begun = self._begun(token) if self._admits(token) else None
        if begun is None:
            token, begun = self._draw_admitted(logits)
        self._open = begun
        c.llama_sampler_accept(self._grammar, token)
        c.llama_sampler_accept(self._chain, token)
        return token

    def _draw_thought(self, thoughts: Thoughts, logits: np.ndarray[Any, np.dtype[np.single]]) -> int:
        if not thoughts.due:
            token, _ = self._draw_where(logits, thoughts.takes)
            if self._model.ends_turn(token):
                thoughts.close()
        if thoughts.due:
            token = thoughts.due.pop(0)
        if thoughts.note(token):
            self._thoughts = None
        c.llama_sampler_accept(self._chain, token)
        return token

    def _draw_admitted(self, logits: np.ndarray[Any, np.dtype[np.single]]) -> tuple[int, bytes]:
        self._candidates.fill(logits)
        if self._open:
            self._keep_continuations()
        allowed = _array(self._candidates.rows)
        c.llama_sampler_apply(self._grammar, ctypes.byref(allowed))
        return self._draw_where(self._candidates.rows["logit"], self._begun)

    def _draw_where(
        self, logits: np.ndarray[Any, np.dtype[np.single]], judge: Callable[[int], bytes | None]
    ) -> tuple[int, bytes]:
        """Draws until a token is right, and gives what the judge says of it; None is wrong."""
        kept = logits.copy()
        # llama.cpp would abort the process when it is handed a token that the grammar forbids.
        while np.isfinite(kept).any():
            token = self._pick(kept)
            verdict = judge(token)
            if verdict is not None and np.isfinite(kept[token]):
                return token, verdict
            kept[token] = -np.inf
        raise GrammarError("the grammar admits no token here")

    def _begun(self, token: int) -> bytes | None:
        """The bytes of a character that would be open after this token; None if they could be no character.

        llama.cpp's grammars take any byte for the continuation of a character: a quotation mark, too.
        """
        data = self._open + self._model.piece(token, special=True)
        try:
            _, used = codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError:
            return None
        begun = data[used:]
        # Python's decoder sees only at the third byte that this is half of a surrogate pair.
        return None if begun[:1] == b"\xed" and begun[1:2] >= b"\xa0" else begun

    def _keep_continuations(self) -> None:
        """Leaves only the tokens that can continue a character; there are few of them."""
        tokens = self._model.continuations
        logits = self._candidates.rows["logit"][tokens]
        self._candidates.rows["logit"] = -np.inf
        self._candidates.rows["logit"][tokens] = logits

    def _pick(self, logits: np.ndarray[Any, np.dtype[np.single]]) -> int:
        if self._greedy:
            return int(logits.argmax())
        array = self._candidates.fill(logits)
        c.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _admits(self, token: int) -> bool:
        self._single.rows["id"] = token
        self._single.rows["logit"] = 1.0
        array = _array(self._single.rows)
        c.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(np.isfinite(self._single.rows["logit"][0]))
