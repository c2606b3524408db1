"""The way of one request, from its arguments to its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from router.deciding import choose
from router.driver import Run
from router.errors import NoEligibleModelError, OverloadedError
from router.exploring import explore
from router.planning import machine_of
from router.shown import shown_usage
from router.streams import AsyncRoutedStream
from router.validation import ParsedRequest, parse_request

if TYPE_CHECKING:
    from router.completion import RoutedCompletion
    from router.core import Core

__all__ = ["answer"]


async def answer(core: Core, arguments: Mapping[str, object]) -> RoutedCompletion | AsyncRoutedStream:
    """Checks, decides, carries out, books. What both faces call."""
    if not core.is_warm:
        await asyncio.to_thread(core.warm)
    from router.completion import RoutedCompletion

    parsed = parse_request(arguments, private=core.config.policy.privacy == "private")
    run = await _begin(core, parsed)
    winner = await run.drive()
    if parsed.request.stream:
        return AsyncRoutedStream(run, winner)
    completion = winner.completion
    if completion is None:  # pragma: no cover - the machine promotes no answer that is not there
        raise AssertionError("an attempt succeeded without an answer")
    text = completion.choices[0].message.content or ""
    winner.reported = completion.usage
    await run.finish(winner, text)
    completion.usage = shown_usage(run.routing, winner)
    return RoutedCompletion.of(completion, run.decision())


async def _begin(core: Core, parsed: ParsedRequest) -> Run:
    """Decides, until that holds: `update` may replace the models between the choice and the beginning."""
    from router.tokens import is_long

    long = is_long(parsed.request.messages, _tools(parsed))
    while True:
        try:
            routing = await asyncio.to_thread(choose, core, parsed) if long else choose(core, parsed)
        except (NoEligibleModelError, OverloadedError) as error:
            core.write_refusal(error)
            raise
        explore(core, routing)
        run = Run(core, routing, machine_of(core, routing))
        if core.enter(run):
            return run


def _tools(parsed: ParsedRequest) -> list[object] | None:
    tools = parsed.request.params.get("tools")
    return tools if isinstance(tools, list) else None
