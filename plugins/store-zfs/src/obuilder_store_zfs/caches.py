"""Caches as data sets: a copy is a clone, its release a promotion."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from obuilder.errors import StoreError
from obuilder.named_cache import CacheNaming, CacheOperations, NamedCaches
from obuilder_store_zfs.datasets import Datasets
from obuilder_store_zfs.program import SNAPSHOT, Failure, is_kernel, listed, run_zfs

__all__ = ["ZfsCaches", "naming_below"]

_LONGEST_NAME_BYTES = 255
_AROUND = len("/cache-tmp/") + len("0123456789ab-") + len("@old-012345")


def naming_below(name: str) -> CacheNaming:
    """OBuilder's naming, with `:` for `%`, as far as the name of the store leaves room."""
    room = _LONGEST_NAME_BYTES - len(name) - _AROUND
    return CacheNaming(prefix="c-", mark=":", room_bytes=room)


class ZfsCaches(NamedCaches):
    """The caches of a zfs store.

    The newest version has the snapshot that copies are cloned from. A copy gets
    one when it is released, as OBuilder does it::

        promote the copy              the old version is now a clone of the copy's snapshot,
                                      and so are all other copies of it
        put that snapshot aside, take a new one
        destroy the old version
        rename the copy               to be the newest version
        destroy the old snapshot      once its last clone is gone

    A crash before the old version is gone is undone by promoting that again;
    one after it is ended by the renaming: until then the copy has a snapshot,
    and is not removed as others are.
    """

    def __init__(self, store: CacheOperations, datasets: Datasets) -> None:
        root = datasets.root
        super().__init__(store, root, root / "state", naming=naming_below(datasets.name))
        self._datasets = datasets

    async def exists(self, cache: Path) -> bool:
        return os.path.ismount(cache) or await self._snapshots(cache) is not None

    async def files(self, directory: Path) -> Sequence[str]:
        top = self._datasets.of(directory)
        rows = await listed(top, columns="name", depth=1)
        names = (name.removeprefix(f"{top}/") for (name,) in rows)
        return [name for name in names if name != top and "@" not in name]

    async def replace(self, copy: Path, current: Path) -> None:
        found = await self._snapshots(current)
        if found is None:
            await self._datasets.snapshot(copy)
            await self._move(copy, current)
            return
        aside = f"old-{secrets.token_hex(3)}"
        try:
            await self._promote(copy)
            await self._rename_snapshot(copy, to=aside)
            await self._datasets.snapshot(copy)
            name = self._datasets.of(current)
            await run_zfs("destroy", name, doing=f"cannot replace {current}")
        except StoreError:
            await self.salvage(copy, current)
            raise
        await self._move(copy, current)
        # Of earlier releases too, if a crash came before this.
        for old in (*(name for name in found if name.startswith("old-")), aside):
            try:
                name = f"{self._datasets.of(current)}@{old}"
                await run_zfs("destroy", "-d", name, doing=f"cannot clear up {current}")
            except Failure as error:
                # Of an earlier release: it has gone with the last copy made from it.
                if not error.is_missing:
                    raise

    async def withdraw(self, current: Path, copy: Path) -> None:
        del copy  # a data set goes at once, and whole
        await self._store.remove_cache(current)

    async def salvage(self, copy: Path, current: Path) -> None:
        released = await self._snapshots(copy)
        if not released:
            # Nothing had begun. Still under the lock: a release may give other copies the
            # cache's snapshots for a moment, and must find these copies there.
            await self._store.remove_cache(copy)
            return
        found = await self._snapshots(current)
        if found is None and SNAPSHOT in released:
            await self._move(copy, current)
            return
        if found is not None:
            name = self._datasets.of(current)
            if name in await self._datasets.clones(self._datasets.of(copy)):
                await self._promote(current)
        await self._datasets.destroy(copy)

    async def _snapshots(self, cache: Path) -> Sequence[str] | None:
        """The names of a data set's snapshots, or None if there is no such data set."""
        name = self._datasets.of(cache)
        try:
            rows = await listed(name, columns="name", depth=1)
        except Failure as error:
            if error.is_missing:
                return None
            raise
        return [each.partition("@")[2] for (each,) in rows if each.startswith(f"{name}@")]

    async def _move(self, copy: Path, current: Path) -> None:
        if is_kernel():
            await self._datasets.rename(copy, current)
            return
        # zfs-fuse renames nothing whose snapshots have clones that are mounted: for the time of
        # it they are given to one of these. A crash in between leaves that as a leftover.
        while clones := await self._datasets.clones(self._datasets.of(copy)):
            await self._promote(self._datasets.path(clones[0]))
        await self._datasets.rename(copy, current)
        while await self._datasets.origin(current):
            await self._promote(current)

    async def _promote(self, cache: Path) -> None:
        await run_zfs("promote", self._datasets.of(cache), doing=f"cannot promote {cache}")

    async def _rename_snapshot(self, cache: Path, *, to: str) -> None:
        name = self._datasets.of(cache)
        argv = ("rename", f"{name}@{SNAPSHOT}", f"{name}@{to}")
        await run_zfs(*argv, doing=f"cannot put the old version of {cache} aside")
