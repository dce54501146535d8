"""A store that turns read-only or is unmounted, a locked database, a clock that was set back."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from support.builds import Call, ScriptedSandbox, open_parts, stage
from support.command import Command
from support.filesystems import mounted_image

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
    monkeypatch.setattr(connection, "_BUSY_S", 0.05)
    monkeypatch.setattr(connection, "_TELL_AFTER_S", 0.02)
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
            monkeypatch.setattr(connection, "_BUSY_S", 0.05)
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
