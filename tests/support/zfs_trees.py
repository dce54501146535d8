"""A directory that is a data set, with stores in it: copied and removed with all that it holds."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from obuilder import process
from obuilder.errors import ProcessError
from obuilder_store_zfs.mounts import mounted_at, mounts
from obuilder_store_zfs.program import BUSY_LIMIT_S, Failure, runs_zfs

__all__ = ["ZfsTree", "of_zfs"]

_COPIED = "copied"
"""The snapshot that copies are made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZfsTree:
    """The data set `name`, mounted at `directory`, and those below."""

    name: str
    directory: Path

    @classmethod
    def at(cls, directory: Path) -> "ZfsTree":
        """The one that is mounted at a directory, or would be. Its parent is mounted."""
        mount = mounted_at(directory.parent)
        assert mount and mount.is_zfs and mount.path == directory.parent, mount
        return cls(name=f"{mount.source}/{directory.name}", directory=directory)

    @classmethod
    def made(cls, name: str) -> "ZfsTree":
        """Make one of that name. What is above is mounted."""
        above, _, last = name.rpartition("/")
        tree = cls.at(next(each.path for each in mounts() if each.source == above) / last)
        tree.create()
        return tree

    def of(self, path: Path) -> str:
        """The data set that belongs at a path below."""
        return f"{self.name}/{path.relative_to(self.directory)}"

    def create(self, path: Path | None = None) -> None:
        """Make it, or the one that belongs at a path below."""
        _run("create", self.of(path) if path else self.name)

    def copy(self, other: "ZfsTree") -> None:
        """Make another that is the same: what is a clone in here is one there.

        Not side by side: zfs-fuse hangs for ever when it receives three of one tree at once.
        """
        try:
            _run("snapshot", "-r", f"{self.name}@{_COPIED}")
        except Failure as error:  # one that is copied once more
            if not error.is_existing:
                raise
        _run("send", "-R", f"{self.name}@{_COPIED}", into=("receive", other.name))
        _run("destroy", "-r", f"{other.name}@{_COPIED}")

    def destroy(self) -> None:
        """Destroy all, with what was cloned from it."""
        anyio.run(_destroy, self.name)


def of_zfs(directory: Path) -> str | None:
    """The data set that is mounted at a directory; None if it is not one's."""
    mount = mounted_at(directory)
    return mount.source if mount and mount.is_zfs and mount.path == directory else None


async def _destroy(name: str) -> None:
    end = anyio.current_time() + BUSY_LIMIT_S
    while True:
        try:
            await process.run(("zfs", "destroy", "-R", name))
            return
        except ProcessError as error:
            # zfs-fuse says so of one after the other, each of which it destroys at a second try.
            if b"busy" not in error.stderr or anyio.current_time() > end:
                raise


def _run(*words: str, into: tuple[str, ...] | None = None) -> None:
    argv = ("zfs", *words)
    if into:
        argv = ("sh", "-c", 'zfs "$1" "$2" "$3" | zfs "$4" "$5"', "sh", *words, *into)
    anyio.run(partial(runs_zfs, argv, doing=f"cannot {words[0]}"))
