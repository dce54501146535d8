"""The log of a step that another process makes: followed while it grows."""

import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import anyio

from obuilder._core.pieces import Piece, Wait

__all__ = ["OtherLog"]

_CHUNK_BYTES = 65536


class OtherLog:
    """Read by its path each time: a store may be unable to remove what is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._ended = False
        self._notes: list[tuple[int, str | Wait]] = []
        self._changed = anyio.Event()

    def tell(self, piece: str | Wait) -> None:
        """Tell the followers, at this place in the output."""
        self._notes.append((self._size, piece))
        self._wake()

    def grow(self) -> bool:
        """Let followers have what is there now; False if it is not the file that it was."""
        try:
            size = self._path.stat().st_size
        except OSError:  # saved, or removed: `end` tells
            return True
        if size < self._size:
            return False
        self._size = size
        self._wake()
        return True

    def end(self, path: Path | None) -> None:
        """No more will come than lies at `path`, where the log is now; None: it is gone."""
        if path is not None:
            self._path = path
            self.grow()
        self._ended = True
        self._wake()

    def dispose(self) -> None:
        """See Log."""

    async def follow(self) -> AsyncGenerator[Piece, None]:
        """See Log."""
        offset = noted = 0
        while True:
            changed, ended, size = self._changed, self._ended, self._size
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
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # as in `grow`
            return b""
        try:
            return os.pread(descriptor, min(_CHUNK_BYTES, end - start), start)
        finally:
            os.close(descriptor)

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
