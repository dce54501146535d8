"""The data sets below a store's own: made, cloned, mounted where their paths say, destroyed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from obuilder.errors import StoreError
from obuilder_store_zfs.program import SNAPSHOT, Failure, is_kernel, listed, run_zfs, runs_zfs

__all__ = ["Datasets"]

_MOUNT_LIMIT_S = 5.0
"""How long a mount that another process has begun may take."""

_MOUNT_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasets:
    """The tree of data sets whose top, `name`, is mounted at `root`.

    A path below `root` and a data set below `name` stand for each other.
    `legacy`: `zfs` leaves mounting these to mount(8).
    """

    name: str
    root: Path
    legacy: bool = False

    @property
    def pool(self) -> str:
        """The pool that all are in."""
        return self.name.partition("/")[0]

    def of(self, path: Path) -> str:
        """The data set that belongs at a path."""
        below = path.relative_to(self.root)
        return f"{self.name}/{below}" if below.parts else self.name

    def path(self, name: str) -> Path:
        """Where a data set belongs."""
        return self.root / name.removeprefix(self.name).removeprefix("/")

    async def create(self, path: Path) -> None:
        """Make an empty data set, mounted. Failure."""
        await run_zfs("create", self.of(path), doing=f"cannot create {path}")
        await self.mount(path)

    async def clone(self, source: Path, target: Path) -> None:
        """Make `target` a writable clone of the snapshot of `source`, mounted. Failure."""
        origin = f"{self.of(source)}@{SNAPSHOT}"
        await run_zfs("clone", origin, self.of(target), doing=f"cannot clone {source}")
        await self.mount(target)

    async def snapshot(self, path: Path) -> None:
        """Take the snapshot that makes what lies at `path` final. Failure."""
        await run_zfs("snapshot", f"{self.of(path)}@{SNAPSHOT}", doing=f"cannot save {path}")

    async def protect(self, path: Path) -> None:
        """Let nobody write to a data set any more, now and after it is mounted again. Failure."""
        await run_zfs("set", "readonly=on", self.of(path), doing=f"cannot protect {path}")

    async def mount(self, path: Path) -> None:
        """Mount a data set where it belongs, if it is not. StoreError."""
        if os.path.ismount(path):
            return
        name = self.of(path)
        argv: tuple[str, ...] = ("zfs", "mount", name)
        if self.legacy and is_kernel():
            _make_directory(path)
            argv = ("mount", "-t", "zfs", name, str(path))
        end = anyio.current_time() + _MOUNT_LIMIT_S
        while not os.path.ismount(path):
            try:
                await runs_zfs(argv, doing=f"cannot mount {path}")
                break
            except Failure as error:
                # Another process was first, or still is at it.
                if not error.is_mounting or anyio.current_time() > end:
                    raise
            await anyio.sleep(_MOUNT_PAUSE_S)
        if not os.path.ismount(path):
            raise StoreError(
                f"data set {name} is not mounted at {path}",
                hint=f"zfs inherit mountpoint {name}",
                code="store.not-mounted",
            )

    async def rename(self, old: Path, new: Path) -> None:
        """Give a data set another name, and mount it there. StoreError."""
        doing = f"cannot rename {old}"
        if self.legacy and is_kernel():
            # zfs leaves it mounted where it is.
            await runs_zfs(("umount", str(old)), doing=doing)
            _remove_directory(old)
        elif not is_kernel() and os.path.ismount(old):
            # zfs-fuse renames no data set that is mounted: it says that it is busy.
            await run_zfs("unmount", self.of(old), doing=doing)
        await run_zfs("rename", self.of(old), self.of(new), doing=doing)
        await self.mount(new)

    async def destroy(self, path: Path, *, snapshots: bool = True) -> None:
        """Destroy a data set, by default with its snapshots; nothing if it is gone.

        Never with what is cloned from it (`-R`): a Failure with `has_clones` then.
        """
        how = ("-r",) if snapshots else ()
        try:
            await run_zfs("destroy", *how, self.of(path), doing=f"cannot remove {path}")
        except Failure as error:
            if not error.is_missing:
                raise
        if self.legacy and path.is_dir() and not os.path.ismount(path):
            # Nobody else removes the mount points of these.
            _remove_directory(path)

    async def clones(self, name: str) -> Sequence[str]:
        """The data sets of the pool that are cloned from one's snapshots. Failure."""
        rows = await listed(self.pool, columns="name,origin")
        return [clone for clone, origin in rows if origin.partition("@")[0] == name]

    async def origin(self, path: Path) -> str | None:
        """The snapshot that a data set is cloned from. Failure."""
        ((_, origin), *_) = await listed(self.of(path), columns="name,origin", depth=1)
        return None if origin == "-" else origin


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the mount point {path}: {error.strerror}") from error


def _remove_directory(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        raise StoreError(f"cannot remove the mount point {path}: {error.strerror}") from error
