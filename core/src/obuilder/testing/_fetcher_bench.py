"""What the contract of fetchers works with: places to fetch into, and fetches."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from obuilder.interfaces import Fetcher
from obuilder.testing._logs import MemoryLog
from obuilder.testing._tools import LIMIT_S
from obuilder.testing._trees import describe_tree
from obuilder.types import BaseImage, FetchContext

__all__ = ["AnyFetcher", "Entry", "FetcherBench", "OpenFetcher", "own_tmpdir", "without_times"]

AnyFetcher = Fetcher[Any]
OpenFetcher = Callable[[], AbstractAsyncContextManager[AnyFetcher]]

Entry = tuple[int, int, int]
"""What lstat(2) says of a file: its mode, which has the type too, its owner and its group."""


@dataclass(kw_only=True)
class FetcherBench:
    """A fetcher under test, and a directory for the roots that it fills."""

    open_fetcher: OpenFetcher
    base: str
    missing_base: str
    expected_files: Mapping[str, bytes]
    expected_entries: Mapping[str, Entry]
    expected_links: Mapping[str, str]
    context: FetchContext
    directory: Path
    _count: int = 0

    def place(self) -> tuple[Path, Path]:
        """A new empty root and a new empty scratch directory, alone in a directory of their own."""
        self._count += 1
        top = self.directory / str(self._count)
        rootfs, scratch = top / "rootfs", top / "scratch"
        for path in (rootfs, scratch):
            path.mkdir(parents=True)
        return rootfs, scratch

    async def fetch(
        self, fetcher: AnyFetcher, base: str | None = None
    ) -> tuple[BaseImage, Path, MemoryLog]:
        """Fetch `base` (by default the one that exists): what came of it, the root, the log."""
        rootfs, scratch = self.place()
        log = MemoryLog()
        with anyio.fail_after(LIMIT_S):
            image = await fetcher.fetch(
                self.base if base is None else base,
                rootfs,
                log=log,
                scratch=scratch,
                context=self.context,
            )
        return image, rootfs, log

    def check_files(self, rootfs: Path) -> None:
        """Fail if there is none, or one holds something else than is expected."""
        assert [path for path in rootfs.rglob("*") if path.is_file()]
        for name, content in self.expected_files.items():
            assert (rootfs / name).read_bytes() == content, name

    def check_entries(self, rootfs: Path) -> None:
        """Fail if a file has another mode, owner or group, or a link another target."""
        for name, (mode, uid, gid) in self.expected_entries.items():
            found = os.lstat(rootfs / name)
            assert oct(found.st_mode) == oct(mode), name
            assert (found.st_uid, found.st_gid) == (uid, gid), name
        for name, target in self.expected_links.items():
            link = rootfs / name
            if link.is_symlink():
                assert os.readlink(link) == target, name
            else:
                assert os.path.samefile(link, rootfs / target), f"{name} is no link"

    def own_directories(self) -> list[Path]:
        """Those of spec and source that are the test's own: in others, other programs may write."""
        given = (self.context.spec_dir, self.context.source_dir)
        top = self.directory.parent
        return [path for path in given if path is not None and path.is_relative_to(top)]


def without_times(rootfs: Path) -> dict[str, tuple[object, ...]]:
    """All of a tree but times: an engine makes a few files anew for each container."""
    return {path: entry[:3] + entry[4:] for path, entry in describe_tree(rootfs).items()}


@contextmanager
def own_tmpdir() -> Iterator[Path]:
    """An empty TMPDIR, for the block. Its path is short: sockets may be made there."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", name)
        patch.setattr(tempfile, "tempdir", name)
        yield Path(name)
