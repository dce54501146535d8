"""Results as whole trees: their layers mounted, to be read, for as long as somebody may read them.

A view is a read-only overlay at a result's own `rootfs`. All processes of the
machine share it. Who uses it holds a kernel lock of its own, shared; the last to
let go unmounts it. A process that dies loses its lock: the mount it leaves is a
leftover, or serves whoever needs it next.

These locks are not among the core's, which tries each of those when it opens a
store: for that moment it would look like one more user.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio.to_thread

from obuilder.errors import StoreError
from obuilder.locks import Locks, use_lock
from obuilder.types import Id, Leftover, LeftoverKind
from obuilder_store_overlayfs import mounts
from obuilder_store_overlayfs.layers import Layers

__all__ = ["Views"]

_KEPT = 16
"""How many views a store keeps mounted that nobody holds the result's lock of."""

_PREFIX = "view-"
_MUTEX = "mutex"


class Views:
    """The views that one open store uses; methods raise StoreError."""

    def __init__(self, layers: Layers, results: Path, state_dir: Path) -> None:
        self._layers = layers
        self._results = results
        self._results_locks = Locks(state_dir / "locks")
        self._locks = Locks(state_dir / "views")
        # The longest unused first.
        self._used: OrderedDict[Id, AsyncExitStack] = OrderedDict()

    async def show(self, id: Id) -> None:
        """See to it that the result's `rootfs` is the whole tree, and remains so."""
        if id in self._used and mounts.is_mounted(self._place(id)):
            self._used.move_to_end(id)
            return
        async with self._locks.hold(_MUTEX):
            if id not in self._used:
                self._used[id] = await self._use(id)
            if not mounts.is_mounted(self._place(id)):
                await self._mount(id)
            self._used.move_to_end(id)
        await self._let_go_of_old()

    async def hide(self, id: Id) -> None:
        """Unmount the view, although others may be using it: the result is to be removed."""
        async with self._locks.hold(_MUTEX):
            await self._unuse(id)
            await self._unmount(self._place(id))

    async def close(self) -> None:
        """Unmount every view that only this store was using."""
        while self._used:
            await self._release(next(iter(self._used)))

    async def leftovers(self) -> Sequence[Leftover]:
        """Views that are mounted and nobody uses."""
        found = []
        async with self._locks.hold(_MUTEX):
            for place in mounts.mounted_in(self._results):
                id = Id(place.parent.name)
                if place == self._place(id) and self._is_unused(id):
                    key = _PREFIX + id
                    found.append(Leftover(kind=LeftoverKind.MOUNT, key=key, path=place))
        return found

    async def discard(self, leftover: Leftover) -> None:
        """Unmount a view if nobody uses it."""
        id = Id(leftover.key.removeprefix(_PREFIX))
        async with self._locks.hold(_MUTEX):
            if self._is_unused(id):
                await self._unmount(self._place(id))

    def _is_unused(self, id: Id) -> bool:
        with self._locks.try_hold(id) as free:
            return free

    def _place(self, id: Id) -> Path:
        return self._results / id / "rootfs"

    async def _use(self, id: Id) -> AsyncExitStack:
        stack = AsyncExitStack()
        await stack.enter_async_context(self._locks.hold(id, shared=True, inherit=False))
        return stack

    async def _unuse(self, id: Id) -> None:
        if id in self._used:
            await self._used.pop(id).aclose()

    async def _mount(self, id: Id) -> None:
        place, home, lower = self._place(id), self._layers.home, self._layers.all(id)
        try:
            await anyio.to_thread.run_sync(
                lambda: mounts.mount_layers(place, home=home, lower=lower)
            )
        except OSError as error:
            await self._unuse(id)
            raise StoreError(
                f"cannot mount the layers of result {id}: {error.strerror}",
                where=str(place),
                hint="the kernel's log says why: dmesg | tail",
            ) from error

    async def _let_go_of_old(self) -> None:
        for id in list(self._used)[:-_KEPT]:
            # Who reads a result has a lock of it; without readers it can be mounted again.
            locks = self._results_locks
            with locks.try_hold(use_lock(id)) as unused, locks.try_hold(id) as unmade:
                if unused and unmade:
                    await self._release(id)

    async def _release(self, id: Id) -> None:
        async with self._locks.hold(_MUTEX):
            await self._unuse(id)
            if self._is_unused(id):
                await self._unmount(self._place(id))

    async def _unmount(self, place: Path) -> None:
        try:
            # Read-only: whoever still has a file open may finish reading it.
            await anyio.to_thread.run_sync(lambda: mounts.unmount(place, busy_ok=True))
        except OSError as error:
            raise StoreError(f"cannot unmount {place}: {error.strerror}") from error
