"""Who has the database open: every process shares a lock of its directory, a rebuild has it alone.

It is a lock of the directory itself: there is no file that a crash could leave, and it stays
where it is when the database in it is replaced.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from obuilder.errors import DatabaseError

__all__ = ["others_have_open", "sharing", "taking_over"]

_FLOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, process


@contextmanager
def sharing(directory: Path) -> Iterator[None]:
    """Say for the block that the database in `directory` is in use. DatabaseError, OSError."""
    with _descriptor(directory) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatabaseError(
                f"the database in {directory} is being made anew",
                code="database.locked",
                hint="try again when `obuilder fsck --rebuild-db` has ended",
            ) from None
        except OSError:
            # A file system that locks no directories; `taking_over` fails there.
            pass
        yield


@contextmanager
def taking_over(directory: Path) -> Iterator[None]:
    """Keep the database in `directory` from being opened in the block. DatabaseError, OSError."""
    with _descriptor(directory) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatabaseError(
                f"the database in {directory} is in use",
                code="database.in-use",
                hint="end every program that uses the store",
            ) from None
        yield


def others_have_open(database: Path) -> bool:
    """Whether a program that knows nothing of us, such as OBuilder, has the file open. OSError.

    Only within `taking_over`: closing a file drops all of SQLite's locks on it that this
    process has.
    """
    for name in (database.name, f"{database.name}-shm"):
        path = database.with_name(name)
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted)
            finally:
                os.close(descriptor)
            if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
                return True
    return False


@contextmanager
def _descriptor(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
