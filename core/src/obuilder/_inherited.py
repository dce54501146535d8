"""Descriptors that every helper of `process.run` gets: a lock is free once they are dead too.

A builder that is killed takes its helper programs along (process.py), but a
little later: one may still be making a snapshot when the lock of its step is
free. The kernel drops a flock when its last descriptor is closed, and each
helper has one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["descriptors", "inherited"]


class _Descriptor:
    """One that is open until its block ends, in whatever task that is."""

    __slots__ = ("is_open", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_open = True


_held: ContextVar[tuple[_Descriptor, ...]] = ContextVar("_held", default=())


def descriptors() -> tuple[int, ...]:
    """What programs that this task starts now get."""
    return tuple(each.number for each in _open())


@contextmanager
def inherited(descriptor: int) -> Iterator[None]:
    """Give `descriptor` to the programs that this task and its children start in the block.

    To none that they start later: a step goes on when the client that began it has left,
    and by then the number may be another file's.
    """
    held = _Descriptor(descriptor)
    _held.set((*_open(), held))
    try:
        yield
    finally:
        held.is_open = False
        # Not reset: the block may end in another task's context, as exit stacks do it.
        _held.set(_open())


def _open() -> tuple[_Descriptor, ...]:
    return tuple(each for each in _held.get() if each.is_open)
