"""A store of plain copies that sends results in a way of its own: a tar of all there is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

from obuilder.errors import StoreError
from obuilder.process import call
from obuilder.types import Id
from obuilder_store_rsync import RsyncStore

__all__ = ["Streaming"]


class Streaming(RsyncStore):
    """A store without a fault."""

    API: ClassVar[int] = 1
    Config = RsyncStore.Config
    stream_formats: ClassVar[tuple[str, ...]] = ("own",)
    create: ClassVar[tuple[str, ...]] = ("--acls", "--xattrs", "--xattrs-include=*", "--sparse")

    async def export(self, id: Id, sink: int, *, format: str, base: Id | None) -> None:
        del format, base
        argv = ("tar", "-c", "--format=posix", *self.create, "-C", str(self._results / id), ".")
        if await call(argv, stdout=sink):
            raise StoreError("tar failed")

    @asynccontextmanager
    async def import_(
        self, id: Id, source: int, *, format: str, base: Id | None
    ) -> AsyncIterator[Path]:
        del format, base
        async with self.build(id) as path:
            await self.unpack(path, source)
            yield path

    async def unpack(self, path: Path, source: int) -> None:
        argv = ("tar", "-x", "--acls", "--xattrs", "--xattrs-include=*", "-C", str(path))
        if await call(argv, stdin=source):
            raise StoreError("tar failed")
