"""The zfs store: results are data sets with a snapshot, a clone is a zfs clone."""

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import anyio

from obuilder.directory_store import DirectoryStore
from obuilder.errors import ConfigError, StoreError
from obuilder.locks import Locks
from obuilder.named_cache import NamedCaches
from obuilder.types import Id, Leftover, LeftoverKind
from obuilder_store_zfs import space, stream
from obuilder_store_zfs.caches import ZfsCaches
from obuilder_store_zfs.datasets import Datasets
from obuilder_store_zfs.location import GROUPS, find
from obuilder_store_zfs.program import SNAPSHOT, Failure, is_kernel, listed, run_zfs

__all__ = ["ZfsStore"]


class ZfsStore(DirectoryStore["ZfsStore.Config"]):
    """Results as data sets `result/ID`, built in their place.

    One counts as a result only once it has the snapshot `@snap`, which is taken
    last, at once, and is what others are cloned from: a crash at any point
    leaves a result whole, or a data set that is a leftover. While it is being
    built `state/locks/build-ID` is held, so that a deletion can tell a clone
    that a crash left from one that is being built.
    """

    API: ClassVar[int] = 1
    stream_formats: ClassVar[tuple[str, ...]] = (stream.FORMAT,)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """The zfs store has no options."""

    @classmethod
    @asynccontextmanager
    async def open(cls, location: str, config: Config) -> AsyncIterator[Self]:
        del config
        if os.geteuid() != 0:
            raise ConfigError(
                "the zfs store must be run by root: others may not mount data sets",
                where="store",
                hint="run obuilder with sudo, or use --store=rsync:DIRECTORY",
                code="store.not-root",
            )
        if shutil.which("zfs") is None:
            raise ConfigError(
                "the zfs store needs the program zfs, which is not in PATH",
                where="store",
                hint="apt-get install zfsutils-linux",
                code="store.program",
            )
        yield cls(await find(location))

    def __init__(self, datasets: Datasets) -> None:
        self._datasets = datasets
        super().__init__(datasets.root, cache_prefix="c-", temporary="result")
        self._locks = Locks(self.state_dir / "locks")

    def named_caches(self, prefix: str) -> NamedCaches:
        del prefix  # ZfsCaches knows it, and more
        return ZfsCaches(self, self._datasets)

    async def create_tree(self, path: Path) -> None:
        await self._datasets.create(path)

    async def clone_tree(self, source: Path, target: Path) -> None:
        await self._datasets.clone(source, target)

    async def remove_tree(self, path: Path) -> None:
        try:
            await self._datasets.destroy(path)
        except Failure as error:
            if not error.has_clones:
                raise
            await self._remove_dead_clones(path, error)
            await self._datasets.destroy(path)

    async def _remove_dead_clones(self, path: Path, reason: Failure) -> None:
        """Remove what a crash left of builds and caches on `path`. StoreError if there is more."""
        left = {leftover.path: leftover for leftover in await self.leftovers()}
        for name in await self._datasets.clones(self._datasets.of(path)):
            clone = self._datasets.path(name)
            lock = f"build-{clone.name}"
            if clone in left and left[clone].kind is LeftoverKind.CACHE:
                lock = left[clone].key
            with self._locks.try_hold(lock) as free:
                if clone not in left or not free:
                    raise StoreError(
                        f"{reason.what}\n  {name} is in use",
                        hint="remove what was built on it first",
                        code="store.in-use",
                    ) from reason
                await self.remove_tree(clone)

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        async with self._locks.hold(f"build-{id}"), super().build(id, base=base) as path:
            yield path

    async def publish(self, temporary: Path, result: Path) -> None:
        del result  # the same: the snapshot makes it one
        await self._datasets.protect(temporary)
        await self._datasets.snapshot(temporary)

    async def result(self, id: Id) -> Path | None:
        path = self._results / id
        if _is_saved(path):
            return path
        name = self._datasets.of(path)
        try:
            rows = await listed(name, columns="name,readonly", depth=1)
        except Failure as error:
            if error.is_missing:
                return None
            raise
        if f"{name}@{SNAPSHOT}" not in (row[0] for row in rows):
            return None
        # Not mounted since the machine started, or as OBuilder leaves its own.
        await self._datasets.mount(path)
        if rows[0][1] == "off" and is_kernel():  # zfs-fuse says so of all
            await self._datasets.protect(path)
        return path

    async def delete(self, id: Id) -> None:
        with anyio.CancelScope(shield=True):
            await self.remove_tree(self._results / id)

    async def results(self) -> Sequence[Id]:
        return [Id(path.name) for path, is_saved in await self._built() if is_saved]

    async def leftovers(self) -> Sequence[Leftover]:
        results = [
            Leftover(kind=LeftoverKind.RESULT, key=path.name, path=path)
            for path, is_saved in await self._built()
            if not is_saved
        ]
        return [*results, *await self._caches.leftovers()]

    async def _built(self) -> Sequence[tuple[Path, bool]]:
        """The directories of all builds that there are, and whether each was saved."""
        top = self._datasets.of(self._results)
        names = {name for (name,) in await listed(top, columns="name", depth=2)}
        return [
            (self._datasets.path(name), f"{name}@{SNAPSHOT}" in names)
            for name in sorted(names)
            if name != top and "@" not in name
        ]

    async def discard(self, leftover: Leftover) -> None:
        path = self._results / leftover.key if leftover.path is None else leftover.path
        if path.parent == self._results and await self.result(Id(path.name)):
            raise StoreError(f"{path} is a result of the store {self.root}, not a leftover")
        await super().discard(leftover)

    async def clone_cache(self, source: Path, target: Path) -> None:
        try:
            await self._datasets.clone(source, target)
        except Failure as error:
            if not error.is_missing:
                raise
            # A crash took its snapshot away; nobody has written to it since.
            await self._datasets.snapshot(source)
            await self._datasets.clone(source, target)

    async def remove_cache(self, path: Path) -> None:
        if path.parent == self.root / "cache":
            await self.remove_tree(path)
            return
        try:
            await self._datasets.destroy(path, snapshots=False)
        except Failure as error:
            # A release that could not be ended: a leftover that is the newest version.
            if not error.has_snapshots:
                raise

    async def df(self) -> float:
        return await space.free_percent(self._datasets)

    async def complete_deletes(self) -> None:
        await space.wait_for_freed(self._datasets)

    async def export(self, id: Id, sink: int, *, format: str, base: Id | None) -> None:
        if format != stream.FORMAT:
            raise StoreError(f"zfs sends no {format!r}", code="store.stream")
        source = None if base is None else self._datasets.of(await self._base(base))
        await stream.send(self._datasets.of(await self._base(id)), sink, base=source)

    @asynccontextmanager
    async def import_(
        self, id: Id, source: int, *, format: str, base: Id | None
    ) -> AsyncIterator[Path]:
        if format != stream.FORMAT:
            raise StoreError(f"zfs receives no {format!r}", code="store.stream")
        path = self._results / id
        name = self._datasets.of(path)
        async with self._locks.hold(f"build-{id}"):
            await self.remove_tree(path)
            try:
                origin = None if base is None else await self._stream_base(base)
                await stream.receive(name, source, base=origin)
                await self._check_origin(path, origin)
                await self._datasets.mount(path)
                yield path
                with anyio.CancelScope(shield=True):
                    await self._datasets.protect(path)
                    old, new = f"{name}@{stream.RECEIVED}", f"{name}@{SNAPSHOT}"
                    await run_zfs("rename", old, new, doing=f"cannot save {path}")
            except BaseException as error:
                with anyio.CancelScope(shield=True):
                    await self._abandon(path, error)
                raise

    async def _stream_base(self, id: Id) -> str:
        path = await self.result(id)
        if path is None:
            what = f"the base {id} is not in the store {self.root}"
            raise StoreError(what, code="store.stream-base")
        return self._datasets.of(path)

    async def _check_origin(self, path: Path, base: str | None) -> None:
        # If a stream holds a difference, zfs looks for what it goes on from in the whole pool.
        found = await self._datasets.origin(path)
        wanted = None if base is None else f"{base}@{SNAPSHOT}"
        if found != wanted:
            raise StoreError(
                f"the stream goes on from {found or 'nothing'}, wanted is {wanted or 'nothing'}",
                hint="have the whole result sent",
                code="store.stream" if base is None else "store.stream-base",
            )

    async def erase(self) -> None:
        with anyio.CancelScope(shield=True):
            # The state is files; the others hold nothing any more.
            for group in GROUPS:
                await self._datasets.destroy(self.root / group)
            if self._datasets.name != self._datasets.pool:
                await self._datasets.destroy(self.root)

    async def size_added(self, id: Id) -> int | None:
        return await space.used_bytes(self._datasets, self._results / id)


def _is_saved(result: Path) -> bool:
    """Whether a result is mounted, protected and has its snapshot; as far as no program tells.

    Only the kernel's ZFS shows snapshots as names, and to look at one mounts nothing.
    """
    try:
        (result / ".zfs" / "snapshot" / SNAPSHOT).lstat()
        return bool(os.statvfs(result).f_flag & os.ST_RDONLY)
    except OSError:  # there is none, or it is not mounted: zfs knows
        return False
