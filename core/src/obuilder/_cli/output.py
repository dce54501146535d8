"""A standard stream, written by a thread: a reader that stalls keeps no signal from being heard."""

import os
import select
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from io import UnsupportedOperation
from typing import BinaryIO

import anyio

__all__ = ["Output", "Stop"]

Stop = Callable[[OSError], None]
"""Called because the stream cannot be written."""

# Enough that a terminal or pipe never runs dry, and nothing against a log of gigabytes.
_MOST_WAITING_BYTES = 1 << 20


class Output:
    """Takes bytes in the event loop and writes them, all and in order, elsewhere.

    `out` may be non-blocking. One without a descriptor is written at once.
    After an error the rest is dropped.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        try:
            self._descriptor: int | None = out.fileno()
        except UnsupportedOperation:
            self._descriptor = None
        self.error: OSError | None = None
        self._pending: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._more = threading.Condition()
        self._thread: threading.Thread | None = None
        # The thread tells the event loop by this that it has written something.
        self._told = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._changed = anyio.Event()

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Have `data` written; what it returns is to be awaited: too much waits already."""
        self.put(data)
        full = self.error is None and self._waiting_bytes > _MOST_WAITING_BYTES
        return self._room() if full else None

    def put(self, data: bytes) -> None:
        """As `write`, from any thread, and however much waits already."""
        if self.error is not None or not data:
            return
        if self._descriptor is None:
            self._write_at_once(data)
            return
        with self._more:
            self._pending.append(data)
            self._waiting_bytes += len(data)
            self._more.notify()
            if self._thread is None:
                # A daemon: one that is stuck in a write does not keep the process.
                self._thread = threading.Thread(
                    target=self._run, args=(self._descriptor,), name="output", daemon=True
                )
                self._thread.start()

    async def drained(self) -> None:
        """Wait until everything has been written, or cannot be. `watch` must be running."""
        await self._until(0)

    async def watch(self, stop: Stop) -> None:
        """Until cancelled: wake those who wait, and call `stop` once if writing fails."""
        stopped = False
        while True:
            if self.error is not None and not stopped:
                stopped = True
                stop(self.error)
            changed, self._changed = self._changed, anyio.Event()
            changed.set()
            await anyio.wait_readable(self._told)
            os.eventfd_read(self._told)

    async def _room(self) -> None:
        await self._until(_MOST_WAITING_BYTES)

    async def _until(self, most_bytes: int) -> None:
        while self._waiting_bytes > most_bytes and self.error is None:
            await self._changed.wait()

    def _run(self, descriptor: int) -> None:
        while self.error is None:
            with self._more:
                self._more.wait_for(lambda: self._pending)
                data = self._pending.popleft()
            try:
                _write_all(descriptor, data)
            except OSError as error:
                self.error = error
            with self._more:
                self._waiting_bytes -= len(data)
            os.eventfd_write(self._told, 1)

    def _write_at_once(self, data: bytes) -> None:
        try:
            self._out.write(data)
            self._out.flush()
        except OSError as error:
            self.error = error
            os.eventfd_write(self._told, 1)

    def close(self) -> None:
        """Write nothing more; a thread that is stuck is left to the end of the process."""
        self.error = self.error or OSError("closed")
        if self._thread is None:
            os.close(self._told)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            # Whoever started us made it non-blocking: a pipe of node, for one.
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
