"""What followers of a step are given, in order: its output, notes, and what it waits for."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from obuilder.locks import OnWait
from obuilder.types import Holder

__all__ = ["Piece", "Sink", "Wait", "telling"]


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
