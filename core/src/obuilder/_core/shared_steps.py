"""Which stage of a build makes what several have in common: the one that would come first in turn.

Two stages have a step in common if all is the same from their bases on. Then the first
makes it and the others find it made, so that each prints what it would print in turn.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import anyio

from obuilder.spec import ast

__all__ = ["Turn", "turns"]


@dataclass(slots=True, eq=False)
class Turn:
    """A place in one or more stages: `leader` is the first of them."""

    leader: int
    done: anyio.Event = field(default_factory=anyio.Event)


def turns(stages: Iterable[ast.Stage]) -> list[list[Turn]]:
    """For each stage, in the order in which they would be made: the base's turn, then each op's."""
    known: dict[tuple[int, Hashable], Turn] = {}
    found = []
    for number, stage in enumerate(stages):
        own: list[Turn] = []
        before = 0  # of what a place comes after
        for what in (stage.from_, *stage.ops):
            turn = known.setdefault((before, _key(what)), Turn(number))
            own.append(turn)
            before = id(turn)
        found.append(own)
    return found


def _key(what: Hashable) -> Hashable:
    try:
        hash(what)
    except TypeError:  # a program's own spec may hold a list: alike to none, which costs nothing
        return id(what)
    return what
