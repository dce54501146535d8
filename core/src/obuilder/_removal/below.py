"""Opening what is below an open directory, wherever links lead."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["DIRECTORY", "Names", "opened_below"]

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a directory is opened that nobody has put a link in the place of."""

Names = tuple[str, ...]
"""A directory below another, name by name."""


@contextmanager
def opened_below(top: int, names: Sequence[str]) -> Iterator[int]:
    """A directory below an open one, reached without following a link. OSError."""
    descriptor = os.open(".", DIRECTORY, dir_fd=top)
    try:
        for name in names:
            below = os.open(name, DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)
