"""The btrfs subvolumes inside a directory, which a command may have made.

To `rm` they are other file systems.
"""

import errno
import fcntl
import os
import re
import struct
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import anyio.to_thread

from obuilder._removal.below import DIRECTORY, Names, opened_below
from obuilder.errors import ProcessError
from obuilder.process import run

__all__ = ["remove_subvolumes"]

# From linux/btrfs.h and btrfs_tree.h.
_TOP_INODE = 256  # of the top directory of every subvolume
_SUBVOL_GETFLAGS = 0x80089419
_SUBVOL_SETFLAGS = 0x4008941A
_SUBVOL_RDONLY = 2


async def remove_subvolumes(path: Path, remove: Callable[[Path], Awaitable[None]]) -> bool:
    """Have `remove` remove those that are inside; False if there are none. ProcessError."""
    searched = ("find", str(path), "-xdev", "-mindepth", "1", "-type", "d")
    argv = (*searched, "-inum", str(_TOP_INODE), "-printf", "%P\\0")
    found = (await run(argv, ok=range(256))).stdout  # what it cannot read, `rm` has told
    are_some = False
    for name in found.split(b"\0")[:-1]:
        with ExitStack() as opened:
            names = tuple(os.fsdecode(name).split("/"))
            place = await anyio.to_thread.run_sync(_subvolume, path, names, opened)
            if place is not None:
                are_some = True
                try:
                    await remove(place)
                except ProcessError as error:
                    # Of a subvolume that is left `rm` says no more than that it is one.
                    what = error.what.replace(str(place), str(path.joinpath(*names)))
                    raise ProcessError(what, stderr=error.stderr) from error
    return are_some


def _subvolume(path: Path, names: Names, opened: ExitStack) -> Path | None:
    """A way to a subvolume that can be emptied, and then goes as a directory does. Blocking.

    None if that is none, or something is mounted there. The way stays right while `opened` is,
    whatever is put in the place of the directories that lead there.
    """
    *above, name = names
    try:
        with ExitStack() as looked_at:
            top = os.open(path, DIRECTORY)
            looked_at.callback(os.close, top)
            parent = opened.enter_context(opened_below(top, above))
            inside = os.open(name, DIRECTORY, dir_fd=parent)
            looked_at.callback(os.close, inside)
            status = os.fstat(inside)
            is_other = status.st_dev != os.fstat(parent).st_dev
            if not (is_other and status.st_ino == _TOP_INODE and _mount(inside) == _mount(top)):
                return None
            (flags,) = struct.unpack("Q", fcntl.ioctl(inside, _SUBVOL_GETFLAGS, bytes(8)))
            if flags & _SUBVOL_RDONLY:
                fcntl.ioctl(inside, _SUBVOL_SETFLAGS, struct.pack("Q", flags & ~_SUBVOL_RDONLY))
    except OSError:  # the last `rm` tells
        return None
    return Path(f"/proc/{os.getpid()}/fd/{parent}/{name}")


def _mount(descriptor: int) -> str:
    """Which mount an open file is in, by proc_pid_fdinfo(5). OSError."""
    text = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    found = re.search(r"^mnt_id:\s*(\d+)$", text, re.MULTILINE)
    if found is None:
        raise OSError(errno.ENOSYS, "the kernel does not say which mount a file is in")
    return found[1]
