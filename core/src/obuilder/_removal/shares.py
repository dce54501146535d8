"""What is to be removed, shared out among programs that remove it at the same time.

Nothing is named by a path through the tree: whoever may write in it could put a link in a
directory's place.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from obuilder._removal.below import DIRECTORY, Names, opened_below

__all__ = ["Share", "put_back", "share_out"]

_PROGRAMS = 8
_ENOUGH = 256
"""So many directories on one level are enough to share out."""
_FEW = 64
_MOST = 4096
_LEVELS = 10
_ENTRIES = 100_000
"""So many names are looked at for directories: nobody can interrupt it."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one program removes: the keys of `places` in the open directory `home`."""

    home: int
    places: Mapping[str, Names]
    """Where each was before, from `top` on."""
    top: int


def share_out(path: Path, opened: ExitStack) -> list[Share]:
    """Move the directories of one level into new ones, for a program each. Blocking.

    Nothing, if there are few. Their descriptors are open for as long as `opened` is.
    """
    try:
        top = os.open(path, DIRECTORY)
        opened.callback(os.close, top)
        parts = _level(top)
        if len(parts) < _FEW:
            return []
        named = {str(number): names for number, names in enumerate(parts)}
        shares = [
            Share(
                _new_directory(top, opened),
                {number: named[number] for number in list(named)[first::_PROGRAMS]},
                top,
            )
            for first in range(_PROGRAMS)
        ]
    except OSError:  # `rm` tells, if it cannot read it either
        return []
    for share in shares:
        for number, (*above, name) in share.places.items():
            # What cannot be moved stays for the last `rm`.
            with suppress(OSError), opened_below(top, above) as parent:
                os.rename(name, number, src_dir_fd=parent, dst_dir_fd=share.home)
    return shares


def put_back(shares: Sequence[Share]) -> None:
    """Move what could not be removed to where it was, so that its path can be told. Blocking."""
    for share in shares:
        left: set[str] = set()
        with suppress(OSError):  # the last `rm` tells
            left.update(os.listdir(share.home))
        for number in share.places.keys() & left:
            *above, name = share.places[number]
            with suppress(OSError), opened_below(share.top, above) as parent:
                os.rename(number, name, src_dir_fd=share.home, dst_dir_fd=parent)


def _new_directory(top: int, opened: ExitStack) -> int:
    name = f"removed-{secrets.token_hex(8)}"
    os.mkdir(name, 0o700, dir_fd=top)
    descriptor = os.open(name, DIRECTORY, dir_fd=top)
    opened.callback(os.close, descriptor)
    return descriptor


def _level(top: int) -> list[Names]:
    """The directories of the level that has most, or enough, of the upper ones. OSError."""
    device = os.fstat(top).st_dev
    left = _ENTRIES
    most: list[Names] = []
    level: list[Names] = [()]
    for _ in range(_LEVELS):
        below: list[Names] = []
        for names in level:
            with opened_below(top, names) as directory, os.scandir(directory) as entries:
                for entry in islice(entries, left):
                    left -= 1
                    if (
                        entry.is_dir(follow_symlinks=False)
                        and entry.stat(follow_symlinks=False).st_dev == device
                    ):
                        below.append((*names, entry.name))
        level = below[:_MOST]
        most = max(most, level, key=len)
        if not level or not left or len(most) >= _ENOUGH:
            break
    return most
