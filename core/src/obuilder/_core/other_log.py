"""The log of a step that another process makes: followed while it grows."""

import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import anyio

from obuilder._core.pieces import Piece, Wait

__all__ = ["OtherLog"]

_CHUNK_BYTES = 65536
_TAIL_BYTES = 256


class OtherLog:
    """Read by its path each time: a store may be unable to remove what is open."""

    def __init__(self, path: Path) -> None:
        self._path: Path | None = path
        self._identity: tuple[int, int] | None = None
        self._size = 0
        self._skipped = 0
        self._tail = b""
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
        except OSError:  # saved, or removed: `end` tells
            return
        identity = (status.st_dev, status.st_ino)
        if identity != (self._identity or identity) or status.st_size < self._size:
            return  # somebody else's
        self._identity, self._size = identity, status.st_size
        start = max(0, self._size - _TAIL_BYTES)
        self._tail = self._read_some(start, self._size)
        self._wake()

    def end(self, path: Path | None, *, skipped: int = 0) -> bool:
        """No more will come than lies at `path`, where the log is now; None: it is gone.

        `skipped`: how many bytes of its beginning are not there. False: that is another log.
        """
        continues = path is None or self._continues(path, skipped)
        self._path = path if continues else None
        self._identity = None
        if self._path is not None and self._path.exists():
            self._skipped = skipped
            self._size = self._path.stat().st_size + skipped
        self._ended = True
        self._wake()
        return continues

    def _continues(self, path: Path, skipped: int) -> bool:
        """Whether a log begins with what was seen of this one, as far as its last bytes tell."""
        start = self._size - len(self._tail)
        if start < skipped:
            return True
        try:
            with path.open("rb") as file:
                file.seek(start - skipped)
                return file.read(len(self._tail)) == self._tail
        except OSError:
            return not self._tail

    def dispose(self) -> None:
        """See Log."""

    async def follow(self) -> AsyncGenerator[Piece, None]:
        """See Log."""
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
        if self._path is None or start < self._skipped:
            return b""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # as in `grow`
            return b""
        try:
            status = os.fstat(descriptor)
            if self._identity not in {None, (status.st_dev, status.st_ino)}:
                return b""
            return os.pread(descriptor, min(_CHUNK_BYTES, end - start), start - self._skipped)
        finally:
            os.close(descriptor)

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
