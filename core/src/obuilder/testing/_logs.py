"""A log in memory: what a suite gives a sandbox or fetcher to write to."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from obuilder.interfaces import BuildLog

__all__ = ["MemoryLog"]

_LIMIT_S = 60.0


class MemoryLog(BuildLog):
    """Keeps what it is given; `pipe` is a real one."""

    def __init__(self) -> None:
        self.data = b""
        self.notes: list[str] = []
        self._changed = anyio.Event()

    async def output(self, data: bytes) -> None:
        self.data += data
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def note(self, text: str) -> None:
        self.notes.append(text)

    async def wait_for(self, text: bytes) -> None:
        """Wait until the output contains `text`. TimeoutError after a minute."""
        with anyio.fail_after(_LIMIT_S):
            while text not in self.data:
                await self._changed.wait()

    @asynccontextmanager
    async def pipe(self) -> AsyncIterator[int]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._drain, reader)
                try:
                    yield writer
                except Exception as error:  # noqa: BLE001 - raised again outside the task group
                    failure = error
                finally:
                    os.close(writer)
        finally:
            os.close(reader)
        if failure:
            raise failure

    async def _drain(self, reader: int) -> None:
        # Shielded: what was written before a cancel belongs in the log.
        with anyio.CancelScope(shield=True):
            while True:
                await anyio.wait_readable(reader)
                data = os.read(reader, 65536)
                if not data:
                    return
                await self.output(data)
