"""Logs that spoil what is written to them, for sandboxes that handle output wrongly."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import anyio

from obuilder.interfaces import BuildLog
from obuilder.testing._logs import MemoryLog

__all__ = ["Hasty", "Held", "Passing", "Reordered", "Truncated"]


class Held(MemoryLog):
    """Gives all of it to the real log at the end."""

    @classmethod
    @asynccontextmanager
    async def over(cls, log: BuildLog) -> AsyncIterator[Self]:
        held = cls()
        yield held
        await log.output(held.arranged())

    def arranged(self) -> bytes:
        return self.data


class Reordered(Held):
    """What begins with an `e` comes last, as errors do that have a pipe of their own."""

    def arranged(self) -> bytes:
        lines = self.data.splitlines(keepends=True)
        lines.sort(key=lambda line: line[:1] == b"e")
        return b"".join(lines)


class Passing(MemoryLog):
    """Passes all on, with a pipe of its own: no fault."""

    def __init__(self, log: BuildLog) -> None:
        super().__init__()
        self._log = log

    async def output(self, data: bytes) -> None:
        await self._log.output(data)


class Hasty(Passing):
    """Lets a cancel end the reading too."""

    async def _drain(self, reader: int) -> None:
        while True:
            await anyio.wait_readable(reader)
            data = os.read(reader, 65536)
            if not data:
                return
            await self.output(data)


class Truncated(MemoryLog):
    """Passes on no more than a pipe holds."""

    def __init__(self, log: BuildLog) -> None:
        super().__init__()
        self._log = log
        self._limit = os.sysconf("SC_PAGESIZE") * 16
        self._passed = 0

    async def output(self, data: bytes) -> None:
        await super().output(data)
        kept = self.data[self._passed : self._limit]
        self._passed += len(kept)
        await self._log.output(kept)
