"""How an engine's process ended, in words that help."""

from __future__ import annotations

import signal
from dataclasses import dataclass

__all__ = ["Ending", "what"]

_MEMORY = "free memory, lower n_ctx or max_parallel, or take a smaller model or quantisation"
#: What a signal mostly means, and what to do.
_MEANINGS = {
    "SIGKILL": f"most likely the machine ran out of memory: {_MEMORY}",
    "SIGABRT": "llama.cpp gave up: check the file, update llama-cpp-python, or report it there",
    "SIGSEGV": "native code crashed: check the file, update llama-cpp-python, or report it there",
    "SIGFPE": "native code crashed: check the file, update llama-cpp-python, or report it there",
    "SIGBUS": "the file or the memory behind it could not be read: was the file cut or replaced in use?",
    "SIGILL": "this build of llama-cpp-python is for another processor: install it from source",
}
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a process.

    Attributes:
        code: Its exit code, negative for a signal; None if it was never started or cannot be known.
        reason: Why it was ended, or not started; empty if it ended by itself.
        last_words: The last line of its standard error; empty if it wrote nothing.
    """

    code: int | None
    reason: str = ""
    last_words: str = ""

    def text(self, doing: str) -> str:
        """One sentence: what happened, what it said last, what to do.

        Args:
            doing: What it was doing: "while it ...".
        """
        said = f'; its last words: "{self.last_words[:_LONGEST]}"' if self.last_words else ""
        if self.code is None:
            return f"its process could not be started: {self.reason}{said}"
        if self.reason:
            return f"its process was ended {doing}: {self.reason}{said}"
        name = _signal_name(self.code)
        if name:
            advice = _MEANINGS.get(name, "")
            return f"its process was killed by {name} {doing}{said}" + (f"; {advice}" if advice else "")
        return f"its process ended with exit code {self.code} {doing}{said}"


def what(running: int, *, loaded: bool) -> str:
    """What an engine's process was doing: "while it ..."."""
    if not loaded:
        return "while it loaded the model"
    return f"while it answered {running} request{'s' * (running != 1)}" if running else "while it was idle"


def _signal_name(code: int) -> str:
    if code >= 0:
        return ""
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"
