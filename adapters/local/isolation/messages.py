"""What the two processes say to each other. Both ends run the same code, so messages have no versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from adapters.local.engine import ModelFacts
from router.adapter import Load
from router.errors import ModelError

__all__ = ["Cancel", "Command", "Event", "Heard", "Open", "Opened", "Said", "Setup", "Submit"]


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message to the child.

    Attributes:
        model: The fields of the `LocalModel`, as plain data.
        turn: The descriptor of the file whose locks say whose turn to compute it is; None: nobody else's.
        cells: Tokens of context that it may hold in memory.
    """

    model: Mapping[str, object]
    turn: int | None = None
    cells: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """`Engine.open`; `Opened` answers it."""

    id: int


@dataclass(frozen=True, slots=True)
class Submit:
    """`Engine.submit`; `Heard` tells what becomes of it.

    Attributes:
        id: What the job is called on both sides.
        job: The job's fields, without those that mean something in one process only.
    """

    id: int
    job: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Cancel:
    """`Engine.cancel`. Nothing answers it."""

    id: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The outcome of one `Open`."""

    id: int
    outcome: ModelFacts | ModelError


@dataclass(frozen=True, slots=True)
class Heard:
    """The engine called one of a listener's methods.

    Attributes:
        id: The job's.
        method: Which one.
        told: Its arguments: whatever `engine.Listener` says, so that it may grow without this package.
        named: Those passed by name.
    """

    id: int
    method: Literal["started", "piece", "finished", "failed"]
    told: tuple[object, ...]
    named: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Said:
    """The child logged something.

    Attributes:
        level: As `logging` has it.
        text: What.
    """

    level: int
    text: str


Command: TypeAlias = Setup | Open | Submit | Cancel
"""From the app to the child."""

Event: TypeAlias = Opened | Heard | Load | Said
"""From the child to the app."""
