"""A store that turns read-only, fails or is unmounted, a locked database, a clock set back."""

import fcntl
import os
import sqlite3
import struct
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from support.builds import Call, ScriptedSandbox, open_parts, stage
from support.command import Command
from support.filesystems import mounted_image
from support.wheels import TOP

from obuilder import process
from obuilder._core.database import connection
from obuilder.errors import DatabaseError, ErrorKind, ObuilderError
from obuilder.types import Id

RUN = '(run (shell "true"))'
SPEC = stage("((from b) (run (shell first)) (run (shell second)))")


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small ext4."""
    with mounted_image("mkfs.ext4", "-q", size_bytes=64 << 20) as mounted:
        yield mounted


MKFS = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q")}
GOING_DOWN = 0x8004587D  # XFS_IOC_GOINGDOWN, which is EXT4_IOC_SHUTDOWN too
WITHOUT_LOG = 2


def shut_down(disk: Path) -> None:
    """Do to a file system what the kernel does when its disk cannot be written."""
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, GOING_DOWN, struct.pack("I", WITHOUT_LOG))
    finally:
        os.close(descriptor)


async def mount_again(disk: Path) -> None:
    """As after a restart of the machine: from a copy, as a new file system.

    A mount namespace that another test made meanwhile may have the old one mounted still.
    """
    await process.run(["umount", str(disk)])
    image, copy = disk.parent / "image", disk.parent / "copy"
    await process.run(["cp", "--sparse=always", str(image), str(copy)])
    copy.rename(image)
    kind = (await process.run(["blkid", "-o", "value", "-s", "TYPE", str(image)])).stdout.strip()
    options = "loop,nouuid" if kind == b"xfs" else "loop"
    await process.run(["mount", "-o", options, str(image), str(disk)])


@pytest.fixture(params=MKFS)
def failing(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small file system that can be shut down."""
    with mounted_image(*MKFS[request.param], size_bytes=320 << 20) as mounted:
        yield mounted


@pytest.mark.parametrize("seen", ["seen", "unseen"])
@pytest.mark.parametrize(
    ("failing", "driver"),
    [("ext4", "rsync"), ("ext4", "overlayfs"), ("xfs", "rsync"), ("xfs", "reflink")],
    indirect=["failing"],
)
def test_a_disk_that_fails_is_told_by_every_command(
    obuilder: Command, failing: Path, driver: str, seen: str
) -> None:
    obuilder.store = f"{driver}:{failing}/store"
    assert obuilder.build(RUN).returncode == 0
    os.sync()
    if seen == "unseen":  # nothing of it is in the kernel's memory
        anyio.run(mount_again, failing)
    shut_down(failing)
    checks = [obuilder("fsck"), obuilder("fsck", "--repair"), obuilder("fsck", "--rebuild-db")]
    others = [obuilder.build(RUN), obuilder("prune", "--before=1d"), obuilder("clean")]
    for done in (*checks, *others, obuilder("delete", "0" * 64)):
        assert done.returncode == 3, done
        assert b"the store's disk fails" in done.stderr
        assert b"hint: dmesg says why" in done.stderr
        assert len(done.stderr.splitlines()) == 2
        assert done.stdout == b""
    anyio.run(mount_again, failing)
    assert obuilder.build(RUN).stdout.count(b" from cache\n") == 2
    assert obuilder("fsck").returncode == 0


FAIL_UNDER_A_BUILDER = """
import os, sys
from pathlib import Path
import anyio
from obuilder.errors import ObuilderError
from obuilder.types import Id
from support.builds import ScriptedSandbox, open_parts
from test_lost_disk import SPEC, shut_down

disk = Path(sys.argv[1])

async def fail(call):
    os.sync()  # what is mapped is clean then: to write there is a fault
    shut_down(disk)
    await call.log.output(b"the last words\\n")

async def main():
    sandbox = ScriptedSandbox(scripts={"second": fail})
    try:
        async with open_parts(disk / "store", sandbox=sandbox) as parts:
            for work in (
                lambda: parts.builder.build(SPEC),
                lambda: parts.builder.build(SPEC),
                parts.builder.clean,
                lambda: parts.builder.delete(Id("0" * 64)),
                parts.builder.check,
            ):
                try:
                    print(await work())
                except ObuilderError as error:
                    print(error.code, error.kind)
    except ObuilderError as error:
        print("closing:", error.code, error.kind)

anyio.run(main)
"""


@pytest.mark.anyio
async def test_a_disk_that_fails_under_a_builder_is_no_lost_store(failing: Path) -> None:
    # In a process of its own: what SQLite maps into memory may end it.
    argv = [sys.executable, "-c", FAIL_UNDER_A_BUILDER, str(failing)]
    env = {**os.environ, "PYTHONPATH": str(TOP / "tests")}
    done = await anyio.run_process(argv, env=env, check=False)
    said = done.stdout.decode().splitlines()
    assert said == [*["store.io infrastructure"] * 5, "closing: store.io infrastructure"]
    assert done.returncode == 0, done.stderr
    await mount_again(failing)
    async with open_parts(failing / "store") as parts:
        result = await parts.builder.build(SPEC)
        assert parts.sandbox.commands == ["second"]
        assert (result.path / "rootfs" / "ran").read_text() == "first\nsecond\n"


@pytest.mark.anyio
async def test_a_read_only_store_is_refused_by_every_command(obuilder: Command, disk: Path) -> None:
    obuilder.store = f"rsync:{disk}/store"
    assert obuilder.build(RUN).returncode == 0
    await process.run(["mount", "-o", "remount,ro", str(disk)])
    builds = [obuilder.build(RUN), obuilder.build('(run (shell "echo another"))')]
    for done in (*builds, obuilder("prune", "--before=1d"), obuilder("clean")):
        assert done.returncode == 3, done.stderr
        assert b"the store is read-only" in done.stderr
        assert b"hint: mount its file system writable" in done.stderr
        assert len(done.stderr.splitlines()) == 2
    obuilder.store = f"rsync:{disk}/other"
    assert obuilder.build(RUN).returncode == 3
    await process.run(["mount", "-o", "remount,rw", str(disk)])
    obuilder.store = f"rsync:{disk}/store"
    again = obuilder.build(RUN)
    assert again.stdout.count(b" from cache\n") == 2


@pytest.mark.anyio
async def test_a_store_that_is_unmounted_under_a_builder_loses_nothing(disk: Path) -> None:
    async def unmount(call: Call) -> None:
        await process.run(["umount", "--lazy", str(disk)])
        await call.log.output(b"the last words\n")

    sandbox = ScriptedSandbox(scripts={"second": unmount})
    try:
        async with open_parts(disk / "store", sandbox=sandbox) as parts:
            for _ in range(2):
                with pytest.raises(ObuilderError) as caught:
                    await parts.builder.build(SPEC)
                assert caught.value.code == "store.vanished"
                assert caught.value.kind is ErrorKind.INFRASTRUCTURE
                assert caught.value.hint
            for command in (parts.builder.clean(), parts.builder.delete(Id("0" * 64))):
                with pytest.raises(ObuilderError) as caught:
                    await command
                assert caught.value.code == "store.vanished"
        # Nor has anything been made where it was.
        assert os.listdir(disk) == []
    finally:
        await process.run(["mount", "-o", "loop", str(disk.parent / "image"), str(disk)])
    async with open_parts(disk / "store") as parts:
        assert parts.temporary() == []
        result = await parts.builder.build(SPEC)
        assert parts.fetcher.fetched == []
        assert parts.sandbox.commands == ["second"]
        assert (result.path / "rootfs" / "ran").read_text() == "first\nsecond\n"


@pytest.mark.anyio
async def test_a_locked_database_is_an_error_and_what_was_saved_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Over at once: it is told before it is given up all the same.
    monkeypatch.setattr(connection, "_BUSY_S", 0.0)
    monkeypatch.setattr(connection, "_TELL_AFTER_S", 0.0)
    async with open_parts(tmp_path / "store") as parts:
        await parts.builder.build(stage("((from b))"))
        database = parts.store.state_dir / "db" / "db.sqlite"
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for work in (
                parts.builder.build(SPEC),
                parts.builder.build(stage("((from another))")),
            ):
                with pytest.raises(DatabaseError) as caught:
                    await work
                assert caught.value.code == "database.locked"
                assert caplog.messages == [
                    f"waiting for database {database}, which another program has locked"
                ]
                caplog.clear()
                assert caught.value.kind is ErrorKind.INFRASTRUCTURE
                assert caught.value.hint
            with anyio.move_on_after(0.01) as scope:
                monkeypatch.setattr(connection, "_BUSY_S", 3600.0)
                await parts.builder.build(SPEC)
            assert scope.cancelled_caught
            monkeypatch.setattr(connection, "_BUSY_S", 0.0)
        await parts.builder.build(SPEC)
        await parts.builder.build(stage("((from another))"))
        # It was saved when the database could not be told.
        assert parts.fetcher.fetched == ["b", "another"]
        assert (await parts.builder.counters()).items == len(await parts.store.results()) == 4
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(DatabaseError, match="locked"):
                await parts.builder.clean()
        await parts.builder.clean()
        assert (await parts.builder.counters()).items == len(await parts.store.results()) == 0


def test_a_clock_that_was_set_back_keeps_prune_and_clean_working(obuilder: Command) -> None:
    assert obuilder.build(f"{RUN} {RUN}").returncode == 0
    path = obuilder.directory / "store/state/db/db.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        future = "2099-01-01 00:00:00"
        connection.execute("UPDATE builds SET created = ?, used = ?", (future, future))
    pruned = obuilder("prune", "--before=1d")
    assert (pruned.returncode, pruned.stdout) == (0, b"Removed 0 items\n")
    assert b"1 of the results were last used in the future" in pruned.stderr
    later = obuilder("prune", "--before=2099-02-01", "--limit=1")
    assert (later.returncode, later.stderr) == (0, b"")
    assert later.stdout.endswith(b"Removed 1 item\n")
    assert obuilder.build(RUN).returncode == 0  # uses what is left: that is now
    assert obuilder("prune", "--before=1d").stderr == b""
    cleaned = obuilder("clean")
    assert cleaned.returncode == 0
    assert os.listdir(obuilder.directory / "store" / "result") == []
