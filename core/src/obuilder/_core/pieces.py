"""What followers of a step are given, in order: its output, notes, and what it waits for."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from obuilder.locks import OnWait
from obuilder.types import Holder

__all__ = ["Piece", "Sink", "Wait", "telling", "warning"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """It waits for `what`, which another has."""

    what: str
    holder: Holder


Piece = bytes | str | Wait
"""Output (bytes), a note (str), or a wait."""

Sink = Callable[[Piece], Awaitable[None]]
"""Gets the pieces of a step, from its beginning."""


def telling(what: str, tell: Callable[[Wait], None]) -> OnWait:
    """Has a wait for a lock told, as one for `what`."""

    async def on_wait(holder: Holder) -> None:
        tell(Wait(what=what, holder=holder))

    return on_wait


def warning(what: str) -> OnWait:
    """Has a wait for a lock told by a warning, where there is no step whose output it could be."""

    async def on_wait(holder: Holder) -> None:
        _logger.warning("waiting for %s, which %s", what, holder)

    return on_wait
