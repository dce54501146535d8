"""The log of a step that another process makes: followed while it grows."""

import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from obuilder._core.disk import disk_errors
from obuilder._core.pieces import Piece, Wait
from obuilder.errors import StoreError

__all__ = ["OtherLog"]

_CHUNK_BYTES = 65536
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class OtherLog:
    """Read by its path each time while it grows: a store may be unable to remove what is open."""

    def __init__(self, path: Path) -> None:
        self._path: Path | None = path
        self._identity: tuple[int, int] | None = None
        self._copy: int | None = None
        self._size = 0
        self._skipped = 0
        self._ended = False
        self._notes: list[tuple[int, str | Wait]] = []
        self._changed = anyio.Event()

    def tell(self, piece: str | Wait) -> None:
        """Tell the followers, at this place in the output."""
        self._notes.append((self._size, piece))
        self._wake()

    def grow(self) -> None:
        """Let followers have what is there now, if that is still the same file."""
        if self._path is None:
            return
        try:
            status = self._path.stat()
        except OSError:  # saved, or removed: how it ends is told
            return
        identity = (status.st_dev, status.st_ino)
        if identity != (self._identity or identity) or status.st_size < self._size:
            return  # somebody else's
        self._identity, self._size = identity, status.st_size
        self._wake()

    def end_gone(self) -> None:
        """No more will come, and what nobody has read yet is gone."""
        self._path = None
        self.end()

    def end_saved(self, path: Path) -> None:
        """The whole lies at `path`, which stays for as long as it is followed. StoreError."""
        with _reading(path):
            size = path.stat().st_size if path.exists() else self._size
        self._path, self._identity, self._size = path, None, size
        self.end()

    def end_kept(self, path: Path, *, skipped: int) -> None:
        """A copy less its first `skipped` bytes is at `path`; others may remove it. StoreError."""
        try:
            with _reading(path):
                self._copy = os.open(path, _FLAGS)
        except FileNotFoundError:
            self._path = None
            self.tell("the log of this step was not kept")
        else:
            self._path, self._skipped = None, skipped
            self._size = os.fstat(self._copy).st_size + skipped
        self.end()

    def end(self) -> None:
        """No more will come; what is there can be read for as long as it is there."""
        self._ended = True
        self._wake()

    def dispose(self) -> None:
        """See Log."""
        if self._copy is not None:
            os.close(self._copy)
            self._copy = None

    async def follow(self) -> AsyncGenerator[Piece, None]:
        """See Log. Raises StoreError."""
        offset = noted = 0
        while True:
            changed, ended, size = self._changed, self._ended, self._size
            if offset < self._skipped:
                yield f"{self._skipped - offset} bytes of the log were not kept, and are left out"
                offset = self._skipped
            for place, piece in self._notes[noted:]:
                for data in self._read(offset, place):
                    offset += len(data)
                    yield data
                noted += 1
                yield piece
            for data in self._read(offset, size):
                offset += len(data)
                yield data
            if ended:
                return
            await changed.wait()

    def _read(self, start: int, end: int) -> Iterator[bytes]:
        while start < end and (data := self._read_some(start, end)):
            start += len(data)
            yield data

    def _read_some(self, start: int, end: int) -> bytes:
        length = min(_CHUNK_BYTES, end - start)
        if start < self._skipped:
            return b""  # `follow` tells
        if self._copy is not None:
            with _reading("that was kept"):
                return os.pread(self._copy, length, start - self._skipped)
        if self._path is None:
            return b""
        try:
            with _reading(self._path):
                descriptor = os.open(self._path, _FLAGS)
        except FileNotFoundError:  # as in `grow`
            return b""
        try:
            status = os.fstat(descriptor)
            if self._identity not in {None, (status.st_dev, status.st_ino)}:
                return b""
            with _reading(self._path):
                return os.pread(descriptor, length, start)
        finally:
            os.close(descriptor)

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


@contextmanager
def _reading(log: Path | str) -> Iterator[None]:
    """Raise StoreError for what the block cannot read; FileNotFoundError passes."""
    with disk_errors():
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"cannot read the log {log}: {error.strerror}") from error
