"""A step's log: appended by one, followed by many, replayed from the file."""

import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from obuilder._core.disk import FULL_HINT, disk_errors
from obuilder._core.pieces import Piece, Wait
from obuilder.errors import StoreError
from obuilder.interfaces import BuildLog

__all__ = ["StepLog", "read_chunks"]

_CHUNK_BYTES = 65536
_COPY_BYTES = 1 << 30
_CLOSED = -1  # no descriptor: a late write fails, and cannot hit a file opened since


class StepLog(BuildLog):
    """The log of one running step.

    Output goes to the file, and followers read it from there through one
    descriptor, which outlives the rename that publishes the result; notes are
    kept in memory with the place in the output they follow.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # A clone brings its base's log along: truncated first.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._writer = os.open(path, flags, 0o644)
        except OSError as error:
            raise StoreError(f"cannot create the log {path}: {error.strerror}") from error
        try:
            self._reader = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            os.close(self._writer)
            raise StoreError(f"cannot read the log {path}: {error.strerror}") from error
        self._size = 0
        self._notes: list[tuple[int, str | Wait]] = []
        self._changed = anyio.Event()

    async def output(self, data: bytes) -> None:
        """Append to the file and wake the followers. Raises StoreError (disk full, closed)."""
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._writer, view)
            except OSError as error:
                raise StoreError(
                    f"cannot write the log {self._path}: {error.strerror}",
                    code="store.log-write",
                    hint=FULL_HINT,
                ) from error
            view = view[written:]
            self._size += written
        self._wake()

    async def note(self, text: str) -> None:
        """Tell the followers."""
        self.tell(text)

    def tell(self, piece: str | Wait) -> None:
        """Tell the followers, at this place in the output."""
        self._notes.append((self._size, piece))
        self._wake()

    @asynccontextmanager
    async def pipe(self) -> AsyncIterator[int]:
        """See BuildLog.pipe."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                drain = _Drain(self, reader, tasks.cancel_scope)
                tasks.start_soon(drain.run)
                try:
                    yield writer
                except Exception as error:  # noqa: BLE001 - raised again outside the task group
                    failure = error
                finally:
                    os.close(writer)
        finally:
            os.close(reader)
        if failure or drain.failure:
            raise failure or drain.failure  # type: ignore[misc]  # one of them is there

    def close(self) -> None:
        """No more will come. Called before the result is published."""
        if self._writer != _CLOSED:
            os.close(self._writer)
            self._writer = _CLOSED
            self._wake()

    def detach(self, directory: Path) -> None:
        """Let followers read on from a copy, without a name, in `directory`. Raises OSError.

        Called when it is closed and what it lies in is about to be removed: a
        store may be unable to do that while a file there is open.
        """
        if self._reader == _CLOSED:
            return
        with tempfile.TemporaryFile(dir=directory) as copy:
            offset = 0
            while sent := os.sendfile(copy.fileno(), self._reader, offset, _COPY_BYTES):
                offset += sent
            # In place: a follower may be reading.
            os.dup2(copy.fileno(), self._reader, inheritable=False)

    def dispose(self) -> None:
        """Nobody follows any more, nor will."""
        self.close()
        if self._reader != _CLOSED:
            os.close(self._reader)
            self._reader = _CLOSED

    async def follow(self) -> AsyncGenerator[Piece, None]:
        """All pieces from the beginning, until it is closed. Raises StoreError."""
        offset = noted = 0
        while True:
            changed, closed, size = self._changed, self._writer == _CLOSED, self._size
            for place, piece in self._notes[noted:]:
                for data in self._read(offset, place):
                    yield data
                offset = place
                noted += 1
                yield piece
            for data in self._read(offset, size):
                yield data
            offset = size
            if closed:
                return
            await changed.wait()

    def _read(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            with disk_errors():
                data = os.pread(self._reader, min(_CHUNK_BYTES, end - start), start)
            if not data:
                return  # somebody has cut the file; there is nothing to wait for
            start += len(data)
            yield data

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class _Drain:
    """Moves what a command prints from its pipe to the log, to the last byte."""

    def __init__(self, log: StepLog, reader: int, command: anyio.CancelScope) -> None:
        self._log = log
        self._reader = reader
        self._command = command
        self.failure: StoreError | None = None

    async def run(self) -> None:
        # Shielded: what was written before a cancel belongs in the log. It ends
        # when the last writer is gone, which killing the command brings about.
        with anyio.CancelScope(shield=True):
            while True:
                # Also when there is more already: a command that floods its
                # output must not keep everything else from running.
                await anyio.wait_readable(self._reader)
                data = os.read(self._reader, _CHUNK_BYTES)
                if not data:
                    return
                await self._keep(data)

    async def _keep(self, data: bytes) -> None:
        if self.failure is not None:
            return  # read on, so that the command can end
        try:
            await self._log.output(data)
        except StoreError as error:
            self.failure = error
            self._command.cancel()


async def read_chunks(path: Path) -> AsyncGenerator[bytes, None]:
    """The stored log of a finished step. Raises StoreError; one that is missing is empty."""
    try:
        async with await anyio.open_file(path, "rb") as file:
            while data := await file.read(_CHUNK_BYTES):
                yield data
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot read the log {path}: {error.strerror}") from error
