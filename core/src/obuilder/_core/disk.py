"""What a full, read-only, failing or vanished disk did: told from an error's cause, in one place.

Too few descriptors for the store's files count as such too.

Backends say what they were doing, in words of their own; that the disk was
to blame they leave in the error's cause. Here it gets a code and a hint.
"""

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from obuilder.errors import (
    BackendError,
    ConfigError,
    FetchError,
    ObuilderError,
    ProcessError,
    StoreError,
)

__all__ = [
    "FULL",
    "FULL_HINT",
    "FULL_NUMBERS",
    "OPEN_FILES",
    "Trouble",
    "allocate",
    "disk_errors",
    "disk_trouble",
    "full",
    "has_room",
    "is_full",
    "is_of_disk",
    "trouble_of",
    "update_in_place",
]

FULL_HINT = "free some space: obuilder prune --before 7d"
FULL_NUMBERS = frozenset({errno.ENOSPC, errno.EDQUOT})

_ROOM_BYTES = 1 << 20
_BLOCKS_BYTES = 256 << 10
_FEW_FILES = 8
_FILES_OF_SQLITE = 4
"""The database, its `-wal` and `-shm`, and the directory, to sync that."""
_PROBE = "room"

_FS_IOC_GETFLAGS = 0x80086601  # linux/fs.h
_FS_IOC_SETFLAGS = 0x40086602
_FS_NOCOW_FL = 0x00800000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One state of a disk; programs say `words`, in the C locale as process.py starts them."""

    code: str
    what: str
    hint: str
    numbers: frozenset[int]
    words: tuple[bytes, ...]


_FULL = Trouble(
    code="store.full",
    what="the disk of the store is full",
    hint=FULL_HINT,
    numbers=FULL_NUMBERS,
    # The last is tar's of a write that ended where the room did, if nothing is written after it.
    words=(b"No space left on device", b"Disk quota exceeded", b"out of space", b"Wrote only "),
)
FULL = _FULL.code
_READ_ONLY = Trouble(
    code="store.read-only",
    what="the store is read-only",
    hint="mount its file system writable; if the kernel made it read-only, dmesg says why",
    numbers=frozenset({errno.EROFS}),
    words=(b"Read-only file system",),
)
_VANISHED = Trouble(
    code="store.vanished",
    what="the store is gone",
    hint="is its file system still mounted?",
    numbers=frozenset({errno.ENOTCONN, errno.ESTALE, errno.ENODEV}),
    words=(b"Transport endpoint is not connected", b"Stale file handle"),
)
_FAILING = Trouble(
    code="store.io",
    what="the store's disk fails",
    hint="dmesg says why; its file system may want a check (fsck of its kind) before it is used",
    # A kernel that has shut a file system down says the first; what it finds damaged, the second.
    numbers=frozenset({errno.EIO, errno.EUCLEAN}),
    words=(b"Input/output error", b"Structure needs cleaning"),
)
OPEN_FILES = Trouble(
    code="store.open-files",
    what="too many files are open",
    hint="let obuilder have more (ulimit -n, or its service's LimitNOFILE=), or run fewer steps",
    numbers=frozenset({errno.EMFILE, errno.ENFILE}),
    words=(b"Too many open files",),
)
_TROUBLES = (_FULL, _READ_ONLY, _FAILING, _VANISHED, OPEN_FILES)
_CODES = frozenset(trouble.code for trouble in _TROUBLES)
_OPEN_CODES = frozenset(
    {"store.location", "store.log-write", "store.stream", "sandbox.bundle", "sandbox.state-dir"}
)
"""Codes that say where it happened and not why; any other of an error's own is left to it."""


@contextmanager
def disk_errors(state_dir: Path | None = None) -> Iterator[None]:
    """Raise StoreError for what the store's disk did to the block; other errors pass.

    `state_dir` is the store's, once it is open: without it the store has vanished.
    """
    try:
        yield
    except (OSError, BackendError, ConfigError) as error:
        trouble = _trouble(error, state_dir)
        if trouble is None:
            raise
        raise StoreError(
            f"{trouble.what}: {_said(error)}", hint=trouble.hint, code=trouble.code
        ) from error


def is_of_disk(error: ObuilderError, state_dir: Path) -> bool:
    """Whether the store's disk is to blame for an error, so that others would meet it too.

    Blocking. A program's words are not enough: names of files are among them, and a mount that
    somebody forgot is read-only in a store that is not.
    """
    trouble = _trouble(error, state_dir)
    if trouble in (_FULL, _READ_ONLY):
        return disk_trouble(state_dir) is not None
    return error.code in _CODES or trouble is not None


def full(what: str) -> StoreError:
    """The error of a disk that is full; `what` could not be done."""
    return StoreError(f"{_FULL.what}: {what}", hint=FULL_HINT, code=FULL)


def has_room(directory: Path, size_bytes: int = _ROOM_BYTES, *, anybody: bool = False) -> bool:
    """Whether a file of a size can be made in a directory. Blocking. OSError.

    `anybody`: by others than root too, for whom some file systems keep less.
    """
    if anybody and _lacks(directory, size_bytes):
        return False
    try:
        # What is said to be free need not be for data, or for names: btrfs has rooms for each.
        with _nameless(directory / _PROBE) as file:
            allocate(file.fileno(), size_bytes)
    except OSError as error:
        if error.errno in FULL_NUMBERS:
            return False
        raise
    return True


def allocate(descriptor: int, size_bytes: int) -> None:
    """Have room for a size from a file's beginning on. Blocking. OSError.

    By fallocate(2). Where a file system has none (zfs-fuse, an old NFS) posix_fallocate(3) writes
    into each block by itself, which takes half a second for 4 MiB: it is written at once.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or libc.fallocate  # musl has one name for both
    number = errno.EINTR
    while number == errno.EINTR:
        if fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size_bytes)) == 0:
            return
        number = ctypes.get_errno()
    if number != errno.EOPNOTSUPP:
        raise OSError(number, os.strerror(number))
    written = 0
    while written < size_bytes:
        written += os.pwrite(descriptor, bytes(size_bytes - written), written)


def _nameless(path: Path) -> BinaryIO:
    # One name for all processes: what one that is killed here leaves goes with the next look.
    file = path.open("wb")
    path.unlink(missing_ok=True)
    return file


def disk_trouble(directory: Path) -> Trouble | None:
    """Why the disk lets no file be made in a directory; None: it does. Blocking.

    For those who are not told: SQLite does not say why it cannot make or write a file.
    """
    try:
        with ExitStack() as opened:
            for _ in range(_FILES_OF_SQLITE - 1):
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.callback(os.close, descriptor)
            return None if has_room(directory) else _FULL
    except OSError as error:
        return trouble_of(error)


def trouble_of(error: BaseException) -> Trouble | None:
    """What the disk did by this error, whatever caused that; None: nothing, as far as is known."""
    return next((trouble for trouble in _TROUBLES if _is_of(error, trouble)), None)


def is_full(directory: Path) -> bool:
    """Whether there is no room for a few blocks; 2 µs if there is plenty. Blocking. OSError.

    SQLite maps its `-shm` file into memory. Where overwriting takes new blocks (btrfs), a write
    to that without room for them is no error but SIGBUS, the end of the process: who uses the
    database asks first. That a btrfs has no room for names is not seen: ask `has_room`.
    """
    return _lacks(directory, _BLOCKS_BYTES) and not has_room(directory, _BLOCKS_BYTES)


def update_in_place(directory: Path) -> None:
    """Have files that are made in a directory overwritten in place, where that is not so anyway.

    Then what they have is enough for their changes, on a full disk too. Blocking. OSError.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system that knows no such flags has no need of this one
            given = fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, bytes(4))
            flags = int.from_bytes(given[:4], sys.byteorder)
            if not flags & _FS_NOCOW_FL:
                wanted = (flags | _FS_NOCOW_FL).to_bytes(4, sys.byteorder)
                fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, wanted)
    finally:
        os.close(descriptor)


def _lacks(directory: Path, size_bytes: int) -> bool:
    """Whether the file system says that it has less, or hardly a file left. OSError."""
    space = os.statvfs(directory)
    few_files = space.f_files > 0 and space.f_favail < _FEW_FILES  # 0: it has no such limit
    return few_files or space.f_bavail * space.f_frsize < size_bytes


def _trouble(error: Exception, state_dir: Path | None) -> Trouble | None:
    if isinstance(error, ObuilderError) and error.code in _CODES:
        return None
    if state_dir is not None and (lost := _lost(state_dir)):
        return lost
    own = isinstance(error, ObuilderError) and error.code not in (error.default_code, *_OPEN_CODES)
    cause: BaseException | None = error
    while cause is not None:
        if trouble := trouble_of(cause):
            if own and not (trouble is OPEN_FILES and isinstance(cause, OSError)):
                return None  # of descriptors it is we who have none left, whatever they were for
            # What a fetcher could not read lies elsewhere as likely as in the store.
            elsewhere = trouble is _FAILING and isinstance(error, FetchError)
            return None if elsewhere else trouble
        cause = cause.__cause__
    return None


def _is_of(error: BaseException, trouble: Trouble) -> bool:
    if isinstance(error, ProcessError):
        return any(words in error.stderr for words in trouble.words)
    return isinstance(error, OSError) and error.errno in trouble.numbers


def _lost(state_dir: Path) -> Trouble | None:
    """Why a store cannot be reached any more; None: it can."""
    try:
        return None if state_dir.is_dir() else _VANISHED
    except OSError as error:  # a file server or daemon that has gone, or a disk
        return _FAILING if _is_of(error, _FAILING) else _VANISHED


def _said(error: Exception) -> str:
    if isinstance(error, ObuilderError):
        return error.what
    name = getattr(error, "filename", None)
    reason = getattr(error, "strerror", None) or str(error)
    return f"{name}: {reason}" if name else reason
