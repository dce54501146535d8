"""What btrfs is asked about subvolumes, and told to do with them.

Questions are ioctls of microseconds. What changes something goes through the
`btrfs` program: 1 to 3 ms dearer, but those ioctls wait for a transaction, and
Python's fcntl.ioctl stops all threads meanwhile (it lets them run only for
arguments up to 1024 bytes; these have 4096).
"""

import errno
import fcntl
import os
from pathlib import Path

import anyio
import anyio.to_thread

from obuilder.directory_store import refuse_mounted, run_tool
from obuilder.errors import StoreError

__all__ = [
    "create",
    "delete",
    "first_own_generation",
    "has_children",
    "is_btrfs",
    "is_read_only",
    "is_subvolume",
    "set_read_only",
    "snapshot",
]

# From linux/btrfs.h, with the offsets of the fields that are read.
_GET_SUBVOL_INFO = 0x81F8943C
_INFO_BYTES = 504
_INFO_FLAGS_AT = 288
_INFO_PARENT_UUID_AT = 312
_INFO_RECEIVED_UUID_AT = 328
_INFO_CREATED_AT = 352
_READ_ONLY = 1
_GET_SUBVOL_ROOTREF = 0xD000943D
_ROOTREF_BYTES = 4096
_ROOTREF_COUNT_AT = 4088
_TOP_INODE = 256  # BTRFS_FIRST_FREE_OBJECTID: the top directory of every subvolume


def is_btrfs(path: Path) -> bool:
    """Whether an existing directory lies on btrfs. OSError if it cannot be opened."""
    try:
        _ioctl(path, _GET_SUBVOL_INFO, _INFO_BYTES)
    except OSError as error:
        if error.errno == errno.ENOTTY:  # another file system does not know the question
            return False
        raise
    return True


def is_subvolume(path: Path) -> bool:
    """Whether a path on btrfs is the top of a subvolume; False if it is missing."""
    try:
        return path.lstat().st_ino == _TOP_INODE
    except FileNotFoundError:
        return False


def is_read_only(path: Path) -> bool:
    """Whether a subvolume has the read-only flag. StoreError."""
    return bool(_number(_info(path), _INFO_FLAGS_AT) & _READ_ONLY)


def first_own_generation(path: Path) -> int:
    """The generation (transaction) from which all that a subvolume holds is its own. StoreError.

    A snapshot is made at the end of a transaction, so its own begins with the next one.
    """
    info = _info(path)
    is_snapshot = any(info[_INFO_PARENT_UUID_AT : _INFO_PARENT_UUID_AT + 16])
    return _number(info, _INFO_CREATED_AT) + 1 if is_snapshot else 0


def has_children(path: Path) -> bool:
    """Whether a subvolume holds others; the cost does not depend on how many exist. StoreError."""
    answer = _ask(path, _GET_SUBVOL_ROOTREF, _ROOTREF_BYTES)
    return answer[_ROOTREF_COUNT_AT] > 0


async def create(path: Path) -> None:
    """Make an empty subvolume. StoreError."""
    await run_tool(("btrfs", "subvolume", "create", str(path)), doing=f"cannot create {path}")


async def snapshot(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Make `target`, which does not exist, a snapshot of `source`. StoreError."""
    how = ("-r",) if read_only else ()
    await run_tool(
        ("btrfs", "subvolume", "snapshot", *how, str(source), str(target)),
        doing=f"cannot make a snapshot of {source}",
    )


async def set_read_only(path: Path, *, value: bool) -> None:
    """Set or clear the read-only flag. StoreError."""
    flag = "true" if value else "false"
    # A received one that is changed is not what was sent any more, and forgets that it was.
    received = any(_info(path)[_INFO_RECEIVED_UUID_AT : _INFO_RECEIVED_UUID_AT + 16])
    force = ("-f",) if received and not value else ()
    await run_tool(
        ("btrfs", "property", "set", *force, "-ts", str(path), "ro", flag),
        doing=f"cannot set the read-only flag of {path}",
    )


async def delete(path: Path) -> None:
    """Delete a subvolume and those inside it. StoreError."""
    await anyio.to_thread.run_sync(refuse_mounted, path)
    for nested in (*(await _nested(path) if has_children(path) else ()), path):
        await run_tool(
            ("btrfs", "subvolume", "delete", str(nested)), doing=f"cannot delete {nested}"
        )


async def _nested(path: Path) -> list[Path]:
    """The subvolumes inside a subvolume, deepest first, all made removable."""
    # `btrfs subvolume list` would read the names of all that the file system has.
    searched = ("find", str(path), "-depth", "-type", "d", "-inum", str(_TOP_INODE), "-print0")
    found = await run_tool(searched, doing=f"cannot search {path}")
    subvolumes = [Path(os.fsdecode(name)) for name in found.split(b"\0") if name]
    for each in subvolumes:
        if is_read_only(each):  # a read-only directory does not let go of what it holds
            await set_read_only(each, value=False)
    return subvolumes[:-1]


def _info(path: Path) -> bytearray:
    return _ask(path, _GET_SUBVOL_INFO, _INFO_BYTES)


def _ask(path: Path, question: int, size_bytes: int) -> bytearray:
    try:
        return _ioctl(path, question, size_bytes)
    except OSError as error:
        raise StoreError(f"cannot examine {path}: {error.strerror}") from error


def _ioctl(path: Path, question: int, size_bytes: int) -> bytearray:
    answer = bytearray(size_bytes)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, question, answer)
    finally:
        os.close(descriptor)
    return answer


def _number(answer: bytearray, at: int) -> int:
    return int.from_bytes(answer[at : at + 8], "little")
