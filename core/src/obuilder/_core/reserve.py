"""Room that is kept for the day when the disk is full, so that `prune` can make more.

Deleting a result needs some room first: the database writes what it is about to
forget, locks are files, and a copy-on-write file system writes whatever it
changes. A file of 4 MiB in the state directory holds that room, and some empty
ones hold what a file system has for so many files (ext4). On btrfs, where names
and attributes have room of their own, the file has attributes of 2 MiB too. All
is given up when the disk is found to be full, and made again before anything is
built.
"""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from obuilder._core.disk import FULL_NUMBERS, allocate, full, has_room, is_full
from obuilder.durable import sync_file_system
from obuilder.errors import StoreError

__all__ = ["RESERVE_BYTES", "Reserve"]

RESERVE_BYTES = 4 << 20
_BLOCK_BYTES = 512  # of st_blocks
_FILES = 32
# Each takes most of a block of btrfs's trees, which has 16 KiB (btrfs(5), nodesize).
_ATTRIBUTES, _ATTRIBUTE_BYTES = 128, 15_000
_BTRFS_SUPER_MAGIC = 0x9123683E  # linux/magic.h


class Reserve:
    """The reserve of one store; all methods block."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "reserve"
        self._files = state_dir / "reserve-files"
        self.is_given_up = False
        """Whether this builder has had to give it up: the disk was full."""

    def give_up_if_full(self) -> None:
        """Free the room if there is no other. OSError."""
        if has_room(self._path.parent, RESERVE_BYTES):
            return
        self.is_given_up = True
        with suppress(FileNotFoundError, IsADirectoryError):  # the latter holds no room of ours
            with suppress(OSError):  # on a full btrfs that may need room; removing does not
                # xfs frees a removed file some time later, a truncated one at once.
                os.truncate(self._path, 0)
            self._path.unlink()
        self._remove_files()
        # It ends the transaction: only then does btrfs let others have what was freed.
        sync_file_system(self._path.parent)

    def keep(self) -> None:
        """See to it that there is a reserve, and some room beside. StoreError if not; OSError."""
        try:
            if not self._is_whole():
                self._fill()
                self._make_files()  # last: that they are there shows that it is whole
        except OSError as error:
            with suppress(OSError):  # why it cannot be made is what counts
                self._path.unlink()
                self._remove_files()
            if error.errno in FULL_NUMBERS:
                what = f"there is no room for {RESERVE_BYTES >> 20} MiB and some files in reserve"
                raise full(what) from error
            self._refuse_foreign(error)
            raise
        self.is_given_up = False
        if is_full(self._path.parent):
            raise full("nothing is free but what is kept in reserve")

    def _refuse_foreign(self, error: OSError) -> None:
        for path, is_right in ((self._path, Path.is_file), (self._files, Path.is_dir)):
            if os.path.lexists(path) and not is_right(path):
                raise StoreError(
                    f"{path} is something else than the store's reserve for a full disk",
                    hint="move it away: the reserve is made again then",
                ) from error

    def _is_whole(self) -> bool:
        try:
            whole = self._path.stat().st_size >= RESERVE_BYTES
            return whole and len(os.listdir(self._files)) >= _FILES
        except FileNotFoundError:
            return False

    def _make_files(self) -> None:
        self._files.mkdir(mode=0o700, exist_ok=True)
        for number in range(_FILES):
            (self._files / str(number)).touch()

    def _remove_files(self) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(self._files):
                with suppress(IsADirectoryError):  # not ours
                    (self._files / name).unlink(missing_ok=True)  # another process may be at it

    def _fill(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            allocate(descriptor, RESERVE_BYTES)
            if os.fstat(descriptor).st_blocks * _BLOCK_BYTES < RESERVE_BYTES:
                # zfs promises and takes nothing; what cannot be compressed it has to store.
                os.pwrite(descriptor, os.urandom(RESERVE_BYTES), 0)
                os.fsync(descriptor)
            if _is_btrfs(self._path):
                for number in range(_ATTRIBUTES):
                    os.setxattr(descriptor, f"user.{number}", bytes(_ATTRIBUTE_BYTES))
        finally:
            os.close(descriptor)


def _is_btrfs(path: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    space = ctypes.create_string_buffer(256)  # struct statfs: f_type is its first word
    if libc.statfs(os.fsencode(path), space) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return ctypes.c_uint32.from_buffer(space).value == _BTRFS_SUPER_MAGIC
