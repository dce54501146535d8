"""A step's log: appended by one, followed by many, replayed from the file."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from obuilder.errors import StoreError
from obuilder.interfaces import BuildLog

__all__ = ["StepLog", "read_chunks"]

_CHUNK_BYTES = 65536


class StepLog(BuildLog):
    """The log of one running step.

    Output goes to the file and followers read it from there through
    descriptors of their own, which outlive the rename that publishes the
    result; notes are kept in memory with the place in the output they follow.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # A clone brings its base's log along: truncated first.
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o644)
        except OSError as error:
            raise StoreError(f"cannot create the log {path}: {error.strerror}") from error
        self._size = 0
        self._notes: list[tuple[int, str]] = []
        self._closed = False
        self._changed = anyio.Event()

    async def output(self, data: bytes) -> None:
        """Append to the file and wake the followers. Raises StoreError (disk full)."""
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._file, view)
            except OSError as error:
                raise StoreError(
                    f"cannot write the log {self._path}: {error.strerror}",
                    code="store.log-write",
                    hint="free some space: obuilder prune",
                ) from error
            view = view[written:]
            self._size += written
        self._wake()

    async def note(self, text: str) -> None:
        """Tell the followers."""
        self._notes.append((self._size, text))
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
        if not self._closed:
            self._closed = True
            os.close(self._file)
            self._wake()

    async def follow(self, *, start: "Position | None" = None) -> AsyncIterator[bytes | str]:
        """All output (bytes) and notes (str) from the beginning, until it is closed."""
        position = start or Position(self.open_reader())
        try:
            while True:
                changed, closed, size = self._changed, self._closed, self._size
                for piece in position.pieces(self._notes, size):
                    yield piece
                if closed and size == self._size:
                    return
                if not closed:
                    await changed.wait()
        finally:
            os.close(position.reader)

    def open_reader(self) -> int:
        """A descriptor on the file that stays good when its directory is renamed."""
        return os.open(f"/proc/self/fd/{self._file}", os.O_RDONLY | os.O_CLOEXEC)

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
                try:
                    data = os.read(self._reader, _CHUNK_BYTES)
                except BlockingIOError:
                    await anyio.wait_readable(self._reader)
                    continue
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


class Position:
    """Where one follower has got to."""

    def __init__(self, reader: int) -> None:
        self.reader = reader
        self._offset = 0
        self._noted = 0

    def pieces(self, notes: list[tuple[int, str]], size: int) -> list[bytes | str]:
        """What has come since the last call, in order."""
        out: list[bytes | str] = []
        for place, text in notes[self._noted :]:
            out.extend(self._read(place))
            out.append(text)
            self._noted += 1
        out.extend(self._read(size))
        return out

    def _read(self, end: int) -> list[bytes]:
        out = []
        while self._offset < end:
            data = os.pread(self.reader, min(_CHUNK_BYTES, end - self._offset), self._offset)
            if not data:
                break
            self._offset += len(data)
            out.append(data)
        return out


async def read_chunks(path: Path) -> AsyncIterator[bytes]:
    """The stored log of a finished step. Raises StoreError; one that is missing is empty."""
    try:
        async with await anyio.open_file(path, "rb") as file:
            while data := await file.read(_CHUNK_BYTES):
                yield data
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot read the log {path}: {error.strerror}") from error
