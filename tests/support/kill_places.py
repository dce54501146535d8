"""Where operations are killed: a store of any kind, what builds on it read, and copies of both."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.obuilder_store import subvolume

from obuilder import Checker, Settings, open_builder
from obuilder._core.session import open_checker

__all__ = ["Place", "checking", "opened"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A store and what builds on it read, in a directory of their own."""

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

    def copied(self, directory: Path) -> "Place":
        """The same in another directory, which is made."""
        copy = Place(driver=self.driver, directory=directory, backend=self.backend)
        directory.mkdir()
        for entry in self.directory.iterdir():
            if entry in (self.root, self.other) and self.driver == "btrfs":
                _copy_subvolumes(entry, directory / entry.name)
            else:
                _copy(entry, directory)
        return copy

    def remove(self) -> None:
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
    return open_builder(Settings.from_dict({"store": f"{place.driver}:{root or place.root}"}))


@asynccontextmanager
async def checking(place: Place, root: Path | None = None) -> AsyncIterator[Checker]:
    """What `obuilder fsck` looks with."""
    settings = Settings.from_dict({"store": f"{place.driver}:{root or place.root}"})
    async with open_checker(settings) as checker:
        yield checker
