"""Backends whose roots are no directories: each is an image, here a tar, behind a program.

A store, what looks into its roots, and a sandbox that runs commands in them.
"""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

from support.streaming import Streaming

from obuilder.errors import SandboxError
from obuilder.interfaces import BuildLog
from obuilder.process import run
from obuilder.testing import LocalTrees, Trees
from obuilder.types import RunConfig
from obuilder_sandbox_runc import RuncSandbox

__all__ = ["ImageSandbox", "ImageStore", "ImageTrees"]

_KEEP = ("--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*")


async def pack(tree: Path, image: Path) -> None:
    """Make an image of a tree, over the one that is there."""
    await run(
        ("tar", "-c", "--format=posix", "--sparse", *_KEEP, "-f", str(image), "-C", str(tree), ".")
    )


async def unpack(image: Path, tree: Path) -> None:
    """Make a tree of an image."""
    how = ("--same-owner", "--same-permissions", *_KEEP)
    await run(("tar", "-x", *how, "-f", str(image), "-C", str(tree)))


@asynccontextmanager
async def opened(image: Path) -> AsyncIterator[Path]:
    """An image as a tree for the block, which is packed again after it.

    Beside the image: what a killed builder leaves there goes with the result that it worked on.
    """
    with tempfile.TemporaryDirectory(dir=image.parent) as directory:
        tree = Path(directory, "tree")
        tree.mkdir()
        if image.exists():
            await unpack(image, tree)
        yield tree
        await pack(tree, image)


class ImageTrees(Trees):
    """Looks into images."""

    async def write(self, rootfs: Path, content: str) -> None:
        async with opened(rootfs) as tree:
            await LocalTrees().write(tree, content)

    async def read(self, rootfs: Path) -> str | None:
        if not rootfs.exists():
            return None
        async with opened(rootfs) as tree:
            return await LocalTrees().read(tree)

    async def make_rich(self, rootfs: Path) -> None:
        with tempfile.TemporaryDirectory() as directory:
            await LocalTrees().make_rich(Path(directory, "tree"))
            await pack(Path(directory, "tree"), rootfs)

    async def spoil(self, rootfs: Path) -> None:
        async with opened(rootfs) as tree:
            await LocalTrees().spoil(tree)

    async def change(self, rootfs: Path) -> None:
        async with opened(rootfs) as tree:
            await LocalTrees().change(tree)

    async def describe(self, rootfs: Path) -> Mapping[str, object]:
        with tempfile.TemporaryDirectory() as directory:
            await unpack(rootfs, Path(directory))
            return await LocalTrees().describe(Path(directory))


class ImageStore(Streaming):
    """A fetcher has filled a directory: it becomes an image when it is saved."""

    API: ClassVar[int] = 1
    Config = Streaming.Config

    async def publish(self, temporary: Path, result: Path) -> None:
        root = temporary / "rootfs"
        if root.is_dir():
            await pack(root, temporary / "image")
            await self.remove_tree(root)
            (temporary / "image").rename(root)
        await super().publish(temporary, result)


class ImageSandbox(RuncSandbox):
    """Runs a command in an image."""

    API: ClassVar[int] = 1
    Config = RuncSandbox.Config

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        if not rootfs.is_file():
            raise SandboxError(f"{rootfs} is no image")
        async with opened(rootfs) as tree:
            tree.chmod(0o755)
            await super().run(config, tree, log=log, stdin=stdin)
