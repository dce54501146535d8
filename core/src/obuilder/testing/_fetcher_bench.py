"""What the contract of fetchers works with: places to fetch into, fetches, and one to be killed."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from obuilder.interfaces import Fetcher
from obuilder.process import call
from obuilder.testing._logs import MemoryLog
from obuilder.testing._tools import CONFIG_FROM_JSON, LIMIT_S, children_running
from obuilder.testing._trees import describe_tree
from obuilder.types import BaseImage, FetchContext

__all__ = ["AnyFetcher", "Entry", "FetcherBench", "OpenFetcher", "own_tmpdir", "without_times"]

AnyFetcher = Fetcher[Any]
OpenFetcher = Callable[[], AbstractAsyncContextManager[AnyFetcher]]

Entry = tuple[int, int, int]
"""What lstat(2) says of a file: its mode, which has the type too, its owner and its group."""

# A builder of its own that fetches one base, and says when it begins. What it logs is lost.
_CHILD = """
import os, sys, anyio
from contextlib import asynccontextmanager
from pathlib import Path
from obuilder.interfaces import BuildLog
from obuilder.types import FetchContext
from {module} import {name} as Backend

class Log(BuildLog):
    async def output(self, data):
        pass
    async def note(self, text):
        pass
    @asynccontextmanager
    async def pipe(self):
        with open("/dev/null", "wb") as nothing:
            yield nothing.fileno()

async def main(options, base, rootfs, scratch, platform, *directories):
    spec_dir, source_dir = (Path(path) if path else None for path in directories)
    context = FetchContext(platform=platform, spec_dir=spec_dir, source_dir=source_dir)
    async with Backend.open(config_from_json(Backend.Config, options)) as fetcher:
        os.write(1, b"ready\\n")
        await fetcher.fetch(base, Path(rootfs), log=Log(), scratch=Path(scratch), context=context)

anyio.run(main, *sys.argv[1:], backend={backend!r})
"""


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
    options: str
    directory: Path
    backend: str
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

    async def killed_fetch(self, fetcher: AnyFetcher, delay_s: float) -> None:
        """Another process begins to fetch `base`, and is killed (-9) so much later."""
        kind = type(fetcher)
        code = CONFIG_FROM_JSON + _CHILD.format(
            module=kind.__module__, name=kind.__name__, backend=self.backend
        )
        directories = (self.context.spec_dir, self.context.source_dir)
        args = (self.options, self.base, *map(str, self.place()), self.context.platform)
        argv = (sys.executable, "-c", code, *args, *(str(path or "") for path in directories))
        # All of the caller's: a fetcher may be configured by it. It may live where the tests do.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        reader, writer = os.pipe()
        ended = anyio.Event()
        status = 0

        async def work() -> None:
            nonlocal status
            with open(writer, "wb") as stdout:  # noqa: ASYNC230 - a pipe's descriptor
                status = await call(argv, stdout=stdout.fileno(), stderr=2, env=environment)
            ended.set()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                with anyio.fail_after(LIMIT_S):
                    await anyio.wait_readable(reader)
                said = os.read(reader, 100)
                with anyio.move_on_after(delay_s):
                    await ended.wait()
                for pid in children_running(code):
                    os.kill(pid, signal.SIGKILL)
        finally:
            os.close(reader)
        assert said == b"ready\n", "another process could not open the fetcher by its `options`"
        assert status in {0, -signal.SIGKILL}, "another process's fetch failed"


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
