"""What is printed: one line per figure, with what is asked for beside it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Settings", "ask_at_least", "ask_at_most", "figure", "note", "title"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How large and how fast the scenarios are run.

    Attributes:
        scale: Requests are this many times as many as the issue asks for.
        speed: Time runs this many times as fast, where a scenario says so.
    """

    scale: float = 1.0
    speed: float = 4.0

    def count(self, requests: int) -> int:
        """A number of requests, scaled."""
        return max(round(requests * self.scale), 20)


def title(text: str) -> None:
    """The head of a scenario."""
    print(f"\n{text}", flush=True)


def note(text: str) -> None:
    """What belongs to a figure and is not asked for."""
    print(f"         {text}", flush=True)


def figure(what: str, got: str, asked: str, *, reached: bool) -> None:
    """A figure, with the one asked for."""
    print(f"  {'ok  ' if reached else 'MISS'}   {what:<48} {got:>12}   asked: {asked}", flush=True)


def ask_at_most(what: str, got: float, most: float, form: str = "{:.3g}") -> None:
    """A figure that may not be larger."""
    figure(what, form.format(got), "<= " + form.format(most), reached=got <= most)


def ask_at_least(what: str, got: float, least: float, form: str = "{:.3g}") -> None:
    """A figure that may not be smaller."""
    figure(what, form.format(got), ">= " + form.format(least), reached=got >= least)
