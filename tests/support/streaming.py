"""Stores of plain copies that send results in ways of their own, without a fault."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import anyio

from obuilder.errors import StoreError
from obuilder.process import call
from obuilder.types import Id
from obuilder_store_rsync import RsyncStore

__all__ = ["Differing", "Streaming"]


class Streaming(RsyncStore):
    """A tar of all there is, whatever the receiver has."""

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
        # Held over the block, as a store's own task group may be.
        with anyio.CancelScope():
            async with self.build(id) as path:
                await self.unpack(path, source)
                yield path

    async def unpack(self, path: Path, source: int) -> None:
        argv = ("tar", "-x", "--acls", "--xattrs", "--xattrs-include=*", "-C", str(path))
        if await call(argv, stdin=source):
            raise StoreError("tar failed")


class Differing(Streaming):
    """On a base, what rsync would do to that: a batch."""

    SAME: ClassVar[tuple[str, ...]] = ("-aHAXS", "--numeric-ids", "--modify-window=-1", "--delete")

    async def export(self, id: Id, sink: int, *, format: str, base: Id | None) -> None:
        if base is None:
            await super().export(id, sink, format=format, base=base)
            return
        batch = self.state_dir / f"batch-{id}"
        try:
            await self.rsync(
                f"--only-write-batch={batch}",
                "--checksum",
                f"{self._results / id}/",
                f"{self._results / base}/",
            )
            if await call(("cat", str(batch)), stdout=sink):
                raise StoreError("cat failed")
        finally:
            for path in (batch, batch.with_name(f"{batch.name}.sh")):
                path.unlink(missing_ok=True)

    @asynccontextmanager
    async def import_(
        self, id: Id, source: int, *, format: str, base: Id | None
    ) -> AsyncIterator[Path]:
        if base is None:
            async with super().import_(id, source, format=format, base=base) as path:
                yield path
            return
        await self.check(base)
        async with self.build(id, base=base) as path:
            batch = self.state_dir / f"batch-{id}"
            with open(batch, "wb") as file:  # noqa: ASYNC230 - a file of its own
                if await call(("cat",), stdin=source, stdout=file.fileno()):
                    raise StoreError("cat failed")
            try:
                await self.rsync(f"--read-batch={batch}", f"{path}/")
            finally:
                batch.unlink()
            yield path

    async def check(self, base: Id) -> None:
        if await self.result(base) is None:
            raise StoreError(f"there is no {base}", code="store.stream-base")

    async def rsync(self, *argv: str) -> None:
        if await call(("rsync", *self.SAME, *argv)):
            raise StoreError("rsync failed")
