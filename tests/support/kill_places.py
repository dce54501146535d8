"""Where operations are killed: a store of any kind, what builds on it read, and copies of both."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.obuilder_store import subvolume
from support.zfs_trees import ZfsTree

from obuilder import Checker, Settings, open_builder
from obuilder._core.session import open_checker

__all__ = ["Place", "checking", "opened"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A store and what builds on it read, in a directory of their own: on zfs a data set."""

    driver: str
    directory: Path
    backend: str

    @property
    def root(self) -> Path:
        return self.directory / "store"

    @property
    def other(self) -> Path:
        """A second store, to move results to."""
        return self.directory / "other"

    @property
    def source(self) -> Path:
        return self.directory / "source"

    @property
    def tree(self) -> ZfsTree | None:
        """The data sets of the place, if it has any."""
        return ZfsTree.at(self.directory) if self.driver == "zfs" else None

    def location(self, root: Path) -> str:
        """What a user would call one of its two stores."""
        tree = self.tree
        return f"{self.driver}:{tree.of(root) if tree else root}"

    def make(self) -> None:
        """Make the directory."""
        if self.tree:
            self.tree.create()
        else:
            self.directory.mkdir()

    def copied(self, directory: Path) -> "Place":
        """The same in another directory, which is made."""
        copy = Place(driver=self.driver, directory=directory, backend=self.backend)
        if self.tree and copy.tree:
            self.tree.copy(copy.tree)
            return copy
        directory.mkdir()
        for entry in self.directory.iterdir():
            if entry in (self.root, self.other) and self.driver == "btrfs":
                _copy_subvolumes(entry, directory / entry.name)
            else:
                _copy(entry, directory)
        return copy

    def remove(self) -> None:
        if self.tree:
            self.tree.destroy()
            return
        if self.driver == "btrfs":
            for path in (*self.directory.glob("*/result*/*"), *self.directory.glob("*/cache*/*")):
                with suppress(subprocess.CalledProcessError):  # a directory; rm tells
                    subvolume("property", "set", "-f", "-ts", str(path), "ro", "false")
                    subvolume("subvolume", "delete", str(path))
        subprocess.run(["rm", "-rf", str(self.directory)], check=True)


def _copy(source: Path, directory: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(directory)], check=True)


def _copy_subvolumes(source: Path, target: Path) -> None:
    target.mkdir()
    for part in source.iterdir():
        if part.name not in {"result", "cache"}:
            _copy(part, target)
            continue
        (target / part.name).mkdir()
        for each in part.iterdir():
            how = ("-r",) if part.name == "result" else ()
            subvolume("subvolume", "snapshot", *how, str(each), str(target / part.name / each.name))


def opened(place: Place, root: Path | None = None) -> Any:
    """A builder on the store, as the command opens it."""
    return open_builder(_settings(place, root))


@asynccontextmanager
async def checking(place: Place, root: Path | None = None) -> AsyncIterator[Checker]:
    """What `obuilder fsck` looks with."""
    async with open_checker(_settings(place, root)) as checker:
        yield checker


def _settings(place: Place, root: Path | None) -> Settings:
    return Settings.from_dict({"store": place.location(root or place.root)})
