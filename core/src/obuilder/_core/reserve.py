"""Room that is kept for the day when the disk is full, so that `prune` can make more.

Deleting a result needs some room first: the database writes what it is about to
forget, and a copy-on-write file system writes whatever it changes. A file of
4 MiB in the state directory holds that room. It is given up when the disk is
found to be full, and made again before anything is built.
"""

import os
from contextlib import suppress
from pathlib import Path

from obuilder._core.disk import FULL_NUMBERS, full, has_room, is_full
from obuilder.durable import sync_file_system

__all__ = ["RESERVE_BYTES", "Reserve"]

RESERVE_BYTES = 4 << 20
_BLOCK_BYTES = 512  # of st_blocks


class Reserve:
    """The reserve of one store; all methods block."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "reserve"
        self.is_given_up = False
        """Whether this builder has had to give it up: the disk was full."""

    def give_up_if_full(self) -> None:
        """Free the room if there is no other. OSError."""
        if has_room(self._path.parent, RESERVE_BYTES):
            return
        self.is_given_up = True
        with suppress(FileNotFoundError):
            with suppress(OSError):  # on a full btrfs that may need room; removing does not
                # xfs frees a removed file some time later, a truncated one at once.
                os.truncate(self._path, 0)
            self._path.unlink()
        # It ends the transaction: only then does btrfs let others have what was freed.
        sync_file_system(self._path.parent)

    def keep(self) -> None:
        """See to it that there is a reserve, and some room beside. StoreError if not; OSError."""
        try:
            if not self._path.exists() or self._path.stat().st_size < RESERVE_BYTES:
                self._fill()
        except OSError as error:
            with suppress(OSError):  # why it cannot be made is what counts
                self._path.unlink()
            if error.errno in FULL_NUMBERS:
                what = f"less than {RESERVE_BYTES >> 20} MiB are free, which is kept in reserve"
                raise full(what) from error
            raise
        self.is_given_up = False
        if is_full(self._path.parent):
            raise full("nothing is free but what is kept in reserve")

    def _fill(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            if os.fstat(descriptor).st_blocks * _BLOCK_BYTES < RESERVE_BYTES:
                # zfs promises and takes nothing; what cannot be compressed it has to store.
                os.pwrite(descriptor, os.urandom(RESERVE_BYTES), 0)
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
