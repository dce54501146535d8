"""What tests of stores work with: builds, builders to be killed, and trees that hold everything."""

import os
import secrets
import signal
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from obuilder.interfaces import Store
from obuilder.process import call
from obuilder.types import Id

__all__ = [
    "ODD_NAMES",
    "AnyStore",
    "BodyFailed",
    "OpenStore",
    "built",
    "describe",
    "descriptors",
    "failing_build",
    "killed_builder",
    "make_rich_tree",
    "new_id",
]

AnyStore = Store[Any]
OpenStore = Callable[[], AbstractAsyncContextManager[AnyStore]]

ODD_NAMES = ["..", ".", "a/b", "", "%", "c-", "x" * 200, "y" * 300, "caf\udce9", "new\nline", "é"]

# A builder of its own, which says how far it came and then waits to be killed.
_CHILD = """
import sys, anyio
from obuilder.types import Id, User
from {module} import {name} as Backend

async def main(location, what, key):
    async with Backend.open(location, Backend.Config()) as store:
        if what == "build":
            block = store.build(Id(key))
        else:
            block = store.cache(key, user=User(uid=0, gid=0))
        async with block as path:
            (path / "half").write_text("half")
            print("ready", flush=True)
            await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:], backend={backend!r})
"""


class BodyFailed(Exception):
    """What a test's build dies of."""


def new_id() -> Id:
    return Id(secrets.token_hex(32))


async def built(store: AnyStore, content: str = "x", *, base: Id | None = None) -> Id:
    id = new_id()
    async with store.build(id, base=base) as path:
        (path / "rootfs").mkdir(exist_ok=True)
        (path / "rootfs" / "content").write_text(content)
        (path / "log").write_text(f"log of {content}")
    return id


async def failing_build(
    store: AnyStore, id: Id, spoil: Callable[[Path], Awaitable[None]] | None = None
) -> Path:
    """A build that dies after `spoil` has been at its directory, which is returned."""
    path = Path()
    with pytest.raises(BodyFailed):  # noqa: PT012 - what fails is the block of a build
        async with store.build(id) as path:
            if spoil is not None:
                await spoil(path)
            raise BodyFailed
    return path


def descriptors() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


@asynccontextmanager
async def killed_builder(
    store: AnyStore, what: str, key: str, *, backend: str
) -> AsyncIterator[None]:
    """Another process is in the middle of a build or cache; dead by -9 after the block."""
    code = _CHILD.format(module=type(store).__module__, name=type(store).__name__, backend=backend)
    argv = (sys.executable, "-c", code, str(store.root), what, key)
    reader, writer = os.pipe()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_report_status, argv, writer)
            with anyio.fail_after(30):
                await anyio.wait_readable(reader)
            assert os.read(reader, 100) == b"ready\n"
            try:
                yield
            finally:
                for pid in _children_running(code):
                    os.kill(pid, signal.SIGKILL)
    finally:
        os.close(reader)


async def _report_status(argv: tuple[str, ...], writer: int) -> None:
    with open(writer, "wb") as stdout:  # noqa: ASYNC230 - a pipe's descriptor
        status = await call(argv, stdout=stdout.fileno(), stderr=2)
    assert status == -signal.SIGKILL


def _children_running(code: str) -> list[int]:
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in pids if code.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


def describe(tree: Path) -> dict[str, tuple[object, ...]]:
    """All that a tree promises to keep, by path."""
    found: dict[str, tuple[object, ...]] = {}
    links: dict[int, str] = {}
    for directory, names, files in os.walk(tree):
        for name in (".", *names, *files):
            path = Path(directory) / name
            info = path.lstat()
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            }
            relative = os.path.relpath(path, tree)
            first = relative
            if not stat.S_ISDIR(info.st_mode):
                first = links.setdefault(info.st_ino, relative)
            found[relative] = (
                oct(info.st_mode),
                info.st_uid,
                info.st_gid,
                info.st_rdev,
                info.st_mtime_ns,
                attributes,
                first,
                str(path.readlink()) if path.is_symlink() else None,
                path.read_bytes() if stat.S_ISREG(info.st_mode) else None,
            )
    return found


def make_rich_tree(rootfs: Path) -> None:
    """One of everything that an image can hold."""
    rootfs.mkdir()
    (rootfs / "plain").write_text("plain")
    os.chown(rootfs / "plain", 1234, 4321)
    (rootfs / "setuid").write_text("s")
    (rootfs / "setuid").chmod(0o6755)
    (rootfs / "hard").hardlink_to(rootfs / "plain")
    (rootfs / "link").symlink_to("../dangling \udcff")
    os.chown(rootfs / "link", 7, 8, follow_symlinks=False)
    (rootfs / "bytes \udcff\n*").write_bytes(b"\0\xff")
    (rootfs / "empty").mkdir(mode=0o700)
    (rootfs / "sticky").mkdir()
    (rootfs / "sticky").chmod(0o1777)
    os.mknod(rootfs / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(rootfs / "fifo")
    os.setxattr(rootfs / "plain", "user.note", b"\0kept")
    os.setxattr(rootfs / "empty", "trusted.note", b"kept")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(rootfs / "setuid", "security.capability", capability)
    with (rootfs / "sparse").open("wb") as file:
        file.seek(20 << 20)
        file.write(b"end")
    os.utime(rootfs / "plain", ns=(1, 1_234_567_890_123_456_789))
    os.utime(rootfs / "link", ns=(1, 987_654_321_123_456_789), follow_symlinks=False)
    os.utime(rootfs / "empty", ns=(1, 1_000_000_000_000_000_001))
