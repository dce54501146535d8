"""Stores with one fault each in a stream of their own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from support.broken_stores import many_programs
from support.streaming import Differing, Streaming

from obuilder.errors import StoreError
from obuilder.process import call
from obuilder.types import Id

__all__ = ["BROKEN_STREAMS"]


class SendsNoOwners(Streaming):
    CAUGHT_BY = "a_stream_carries_a_result_with_everything_in_it"
    create = (*Streaming.create, "--owner=0", "--group=0")


class KeepsWhatItWasSent(Streaming):
    CAUGHT_BY = "a_result_that_came_by_a_stream_is_as_any_other"

    async def unpack(self, path: Path, source: int) -> None:
        await super().unpack(path, source)
        (self.state_dir / path.name).touch()

    async def delete(self, id: Id) -> None:
        if (self.state_dir / id).exists():
            raise StoreError(f"{id} was sent here")
        await super().delete(id)


class TakesWhatItGot(Streaming):
    CAUGHT_BY = "a_damaged_or_cut_stream_imports_nothing"

    @asynccontextmanager
    async def import_(
        self, id: Id, source: int, *, format: str, base: Id | None
    ) -> AsyncIterator[Path]:
        del format, base
        async with self.build(id) as path:
            await call(("tar", "-x", "-C", str(path)), stdin=source)
        yield path


class LeavesACancelledImport(Streaming):
    CAUGHT_BY = "an_import_that_is_cancelled_leaves_nothing"

    @asynccontextmanager
    async def import_(
        self, id: Id, source: int, *, format: str, base: Id | None
    ) -> AsyncIterator[Path]:
        other = self._temporary / id[::-1]
        other.mkdir(exist_ok=True)
        async with super().import_(id, source, format=format, base=base) as path:
            yield path
        other.rmdir()


class ImportsInPlace(Streaming):
    CAUGHT_BY = "an_import_that_is_killed_leaves_all_or_nothing"

    @asynccontextmanager
    async def import_(
        self, id: Id, source: int, *, format: str, base: Id | None
    ) -> AsyncIterator[Path]:
        del format, base
        path = self._results / id
        try:
            path.mkdir()
            await many_programs()
            await self.unpack(path, source)
            yield path
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.remove_tree(path)
            raise


class ForgetsTheBase(Differing):
    CAUGHT_BY = "a_difference_to_a_base_makes_the_whole_result"

    @asynccontextmanager
    async def import_(
        self, id: Id, source: int, *, format: str, base: Id | None
    ) -> AsyncIterator[Path]:
        async with super().import_(id, source, format=format, base=base) as path:
            if base is not None:
                (path / "env").unlink()
            yield path


class TakesWhatIsThereForTheBase(Differing):
    CAUGHT_BY = "a_difference_without_its_base_makes_no_other_result"

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        known = base is not None and await self.result(base) is not None
        async with super().build(id, base=base if known else None) as path:
            yield path

    async def check(self, base: Id) -> None:
        pass

    async def rsync(self, *argv: str) -> None:
        await call(("rsync", *self.SAME, *argv))


BROKEN_STREAMS = [
    kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, Streaming) and kind not in {Differing, Streaming}
]
