"""The overlayfs store: a result is what its step changed, over the layers of its base."""

import errno
import os
import shlex
import stat
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import anyio
import anyio.to_thread

from obuilder.directory_store import absolute_location
from obuilder.errors import ConfigError, StoreError
from obuilder.plain_store import PlainStore, copy_entries, copy_tree, require_program
from obuilder.types import Id, Leftover, LeftoverKind
from obuilder_store_overlayfs import mounts
from obuilder_store_overlayfs.layers import Layers, copy_other_names
from obuilder_store_overlayfs.probe import check_location
from obuilder_store_overlayfs.views import Views

__all__ = ["OverlayfsStore"]

_MOST_LAYERS = 32
"""A result that would have more is saved as a whole tree. Their paths must fit in one page."""

_BUSY_LIMIT_S = 10.0
"""How long a step's tree may stay in use after its sandbox has ended."""

_BUSY_WAIT_S = 0.02
_ROOTFS = "rootfs"


class OverlayfsStore(PlainStore["OverlayfsStore.Config"]):
    """Results as layers on any file system that can hold them.

    While a step runs, `result-tmp/ID/rootfs` is an overlay of its base's layers
    and `layer/ID/tree`, which takes the changes. A result is saved by unmounting
    that and the rename of all stores: a crash before it leaves a temporary
    result with a layer, which go together. What is not in `rootfs` (log,
    environment) is copied, and is plain files always.
    """

    API: ClassVar[int] = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """The overlayfs store has no options."""

    @classmethod
    @asynccontextmanager
    async def open(cls, location: str, config: Config) -> AsyncIterator[Self]:
        del config
        root = absolute_location(location, driver="overlayfs")
        if os.geteuid() != 0:
            raise ConfigError(
                "the overlayfs store must be run by root: others may not mount",
                where="store",
                hint="run obuilder with sudo, or use --store=rsync:DIRECTORY",
                code="store.not-root",
            )
        require_program("cp", package="coreutils", driver="overlayfs")
        store = cls(root)
        await check_location(root)
        try:
            yield store
        finally:
            with anyio.CancelScope(shield=True):
                await store._views.close()

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._layers = Layers(root)
        self._views = Views(self._layers, self._results, self.state_dir)

    async def result(self, id: Id) -> Path | None:
        path = await super().result(id)
        if path is not None and self._layers.is_layered(id):
            await self._views.show(id)
        return path

    async def clone_tree(self, source: Path, target: Path) -> None:
        await self.create_tree(target)
        base, id, layered = Id(source.name), Id(target.name), False
        try:
            names = sorted(entry.name for entry in source.iterdir())
            if _ROOTFS in names and stat.S_ISDIR((source / _ROOTFS).lstat().st_mode):
                names.remove(_ROOTFS)
                layered = True
            await copy_entries(source, names, target, share="auto")
            if layered:
                self._layers.begin(id, base)
                (target / _ROOTFS).mkdir()
                await self._mount(id, target / _ROOTFS)
        except OSError as error:
            raise StoreError(f"cannot clone {source} to {target}: {error}") from error

    async def _mount(self, id: Id, place: Path) -> None:
        home, lower = self._layers.home, self._layers.below(id)
        await anyio.to_thread.run_sync(
            lambda: mounts.mount_overlay(
                place, home=home, lower=lower, upper=f"{id}/tree", work=f"{id}/work"
            )
        )

    async def publish(self, temporary: Path, result: Path) -> None:
        id = Id(result.name)
        if self._layers.is_layered(id):
            try:
                await self._finish_layer(id, temporary / _ROOTFS)
            except OSError as error:
                raise StoreError(f"cannot save the layer of {id}: {error}") from error
        await super().publish(temporary, result)

    async def _finish_layer(self, id: Id, place: Path) -> None:
        if self._layers.has_copied_links(id):
            since_ns, tree = self._cloned_at_ns[id], self._layers.tree(id)
            await anyio.to_thread.run_sync(lambda: copy_other_names(place, tree, since_ns=since_ns))
        whole = self._layers.home / id / "whole"
        join = len(self._layers.all(id)) > _MOST_LAYERS
        if join:
            await copy_tree(place, whole, share="auto")
        await _unmount_idle(place)
        if join:
            place.rmdir()
            whole.rename(place)
            await super().remove_tree(self._layers.home / id)
        else:
            await anyio.to_thread.run_sync(self._layers.seal, id)

    async def delete(self, id: Id) -> None:
        self._layers.check_unused(id)
        await super().delete(id)

    async def withdraw(self, result: Path, temporary: Path) -> None:
        await self._views.hide(Id(result.name))
        await super().withdraw(result, temporary)

    async def remove_tree(self, path: Path) -> None:
        if path.parent == self._temporary:
            try:
                place = path / _ROOTFS
                await anyio.to_thread.run_sync(lambda: mounts.unmount(place, busy_ok=True))
            except OSError as error:
                raise StoreError(f"cannot unmount {place}: {error.strerror}") from error
            if not (self._results / path.name).is_dir():
                await super().remove_tree(self._layers.home / path.name)
        await super().remove_tree(path)

    async def clone_cache(self, source: Path, target: Path) -> None:
        # Not a layer: a cache has many generations, and each must be able to go.
        await copy_tree(source, target, share="auto")

    def written_places(self, id: Id) -> Sequence[Path]:
        places = super().written_places(id)
        return (*places, self._layers.tree(id)) if self._layers.is_layered(id) else places

    async def leftovers(self) -> Sequence[Leftover]:
        return [*await super().leftovers(), *await self._views.leftovers()]

    async def discard(self, leftover: Leftover) -> None:
        if leftover.kind is LeftoverKind.MOUNT:
            await self._views.discard(leftover)
        else:
            await super().discard(leftover)


async def _unmount_idle(place: Path) -> None:
    limit = time.monotonic() + _BUSY_LIMIT_S
    while True:
        try:
            # Not if it is busy: who still has a file of it open could change the result.
            await anyio.to_thread.run_sync(lambda: mounts.unmount(place, busy_ok=False))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            if time.monotonic() > limit:
                raise StoreError(
                    f"{place} is still in use",
                    hint=f"see who uses it: fuser -vm {shlex.quote(str(place))}",
                    code="store.busy",
                ) from error
        else:
            return
        await anyio.sleep(_BUSY_WAIT_S)
