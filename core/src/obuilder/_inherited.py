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

_held: ContextVar[tuple[int, ...]] = ContextVar("_held", default=())


def descriptors() -> tuple[int, ...]:
    """What programs that this task starts now get."""
    return _held.get()


@contextmanager
def inherited(descriptor: int) -> Iterator[None]:
    """Give `descriptor` to the programs that this task and its children start in the block."""
    _held.set((*_held.get(), descriptor))
    try:
        yield
    finally:
        # Not reset: the block may end in another task's context, as exit stacks do it.
        _held.set(tuple(each for each in _held.get() if each != descriptor))
