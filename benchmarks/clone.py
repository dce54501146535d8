"""Measures what docs/stores.md reports: how long each store takes to clone, save and delete.

As root, with the programs that make the file systems. Everything is made in
image files in a temporary directory (TMPDIR), and removed. For `zfs` a running
ZFS is needed (the kernel's, or a zfs-fuse that was started).
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from obuilder import process
from obuilder.interfaces import Store
from obuilder.types import Id
from obuilder_store_btrfs import BtrfsStore
from obuilder_store_overlayfs import OverlayfsStore
from obuilder_store_reflink import ReflinkStore
from obuilder_store_rsync import RsyncStore
from obuilder_store_zfs import ZfsStore
from obuilder_store_zfs.program import runs_zfs

FILES = 20_000
FILE_BYTES = 500 * 2**20 // FILES
FILES_IN_DIRECTORY = 100
IMAGE_BYTES = 12 * 2**30
RUNS = 5
MKFS = {
    "ext4": ("mkfs.ext4", "-q"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "--quiet"),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row: a store's class and options, and what it lies on."""

    name: str
    backend: type[Any]
    file_system: str
    options: dict[str, Any]

    def open(self, location: str) -> AbstractAsyncContextManager[Store[Any]]:
        opened: AbstractAsyncContextManager[Store[Any]] = self.backend.open(
            location, self.backend.Config(**self.options)
        )
        return opened


def case(name: str, backend: type[Any], file_system: str, **options: str) -> Case:
    return Case(name=name, backend=backend, file_system=file_system, options=options)


CASES = [
    case("rsync copy", RsyncStore, "ext4"),
    case("rsync hardlink", RsyncStore, "ext4", mode="hardlink"),
    case("rsync hardlink_unsafe", RsyncStore, "ext4", mode="hardlink_unsafe"),
    case("reflink", ReflinkStore, "xfs"),
    case("reflink", ReflinkStore, "btrfs"),
    case("btrfs", BtrfsStore, "btrfs"),
    case("overlayfs", OverlayfsStore, "ext4"),
    case("overlayfs", OverlayfsStore, "xfs"),
    case("zfs", ZfsStore, "zfs"),
]


def fill(rootfs: Path) -> None:
    """FILES files that no compression makes smaller."""
    for number in range(FILES):
        directory = rootfs / f"{number // FILES_IN_DIRECTORY:04}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number:06}").write_bytes(os.urandom(FILE_BYTES))


def used_mib(mounted: Path) -> float:
    """What the file system holds, once all of it is written."""
    os.sync()
    space = os.statvfs(mounted)
    return (space.f_blocks - space.f_bfree) * space.f_frsize / 2**20


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Append the block's milliseconds."""
    begun = time.perf_counter()
    yield
    into.append((time.perf_counter() - begun) * 1000)


async def measure(case: Case, location: str, mounted: Path) -> str:
    """A line of docs/stores.md's table."""
    clone: list[float] = []
    save: list[float] = []
    delete: list[float] = []
    room: list[float] = []
    async with case.open(location) as store:
        base = Id("0" * 64)
        async with store.build(base) as path:
            await anyio.to_thread.run_sync(fill, path / "rootfs")
        for run in range(RUNS):
            id = Id(f"{run + 1:064x}")
            before = used_mib(mounted)
            block = store.build(id, base=base)
            with timed(clone):
                path = await block.__aenter__()
            (path / "rootfs" / "new").write_text("new")
            with timed(save):
                await block.__aexit__(None, None, None)
            room.append(used_mib(mounted) - before)
            with timed(delete):
                await store.delete(id)
            await store.complete_deletes()
    times = " | ".join(f"{statistics.median(each):,.0f} ms" for each in (clone, save, delete))
    room_mib = max(0.0, statistics.median(room))
    return f"| {case.name} | {case.file_system} | {times} | {room_mib:,.0f} MiB |"


async def run_case(case: Case, directory: Path) -> None:
    """Measure on a file system of the case's own."""
    image, mounted = directory / "image", directory / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    if case.file_system == "zfs":
        pool = f"clone{os.getpid()}"
        await process.run(["zpool", "create", "-m", str(mounted), pool, str(image)])
        location, end = f"{pool}/store", ["zpool", "destroy", "-f", pool]
    else:
        await process.run([*MKFS[case.file_system], str(image)])
        await process.run(["mount", "-o", "loop", str(image), str(mounted)])
        location, end = str(mounted / "store"), ["umount", str(mounted)]
    try:
        sys.stdout.write(await measure(case, location, mounted) + "\n")
        sys.stdout.flush()
    finally:
        await runs_zfs(end, doing="cannot take the file system down")  # tries while it is busy
        image.unlink()


async def main(wanted: Sequence[str]) -> None:
    """Measure the cases whose names begin with one of the words given, or all."""
    sys.stdout.write("| store | on | clone | save | delete | room |\n")
    sys.stdout.write("| --- | --- | --- | --- | --- | --- |\n")
    for case in CASES:
        if not wanted or any(case.name.startswith(word) for word in wanted):
            with tempfile.TemporaryDirectory(prefix="clone-") as directory:
                await run_case(case, Path(directory))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1:])
