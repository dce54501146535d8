"""What resists removal, or is not removed to its end, is in nobody's way but its own."""

import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from errno import EIO
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.builds import Call, Events, Parts, ScriptedSandbox, open_parts, stage

from obuilder._mounts import unmount_below
from obuilder.errors import StoreError
from obuilder.interfaces import Store
from obuilder.process import run
from obuilder.types import Id
from obuilder_store_btrfs import BtrfsStore
from obuilder_store_reflink import ReflinkStore
from obuilder_store_rsync import RsyncStore

pytestmark = pytest.mark.anyio

SPEC = "((from b) (run (shell one)) (run (shell two)))"
WITH_CACHE = "((from b) (run (cache (c (target /c))) (shell {})))"


async def build(parts: Parts, text: str = SPEC) -> list[Id]:
    seen = Events()
    await parts.builder.build(stage(text), seen.context())
    return [id for id, _ in seen.steps]


async def prune_all(parts: Parts) -> int:
    return await parts.builder.prune(before=datetime.now(UTC) + timedelta(days=1), limit=100)


def known(store: Path) -> set[str]:
    with closing(sqlite3.connect(store / "state/db/db.sqlite")) as database:
        return {id for (id,) in database.execute("SELECT id FROM builds")}


@asynccontextmanager
async def resisting(directory: Path, *others: Path) -> AsyncIterator[Path]:
    """A file in it that nobody can remove, for the block; it may end below one of the others."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "resists"
    file.touch()
    await run(["chattr", "+i", str(file)])
    try:
        yield file
    finally:
        with anyio.CancelScope(shield=True):
            for place in (directory, *others):
                await run(["chattr", "-R", "-i", str(place)], ok=(0, 1))  # 1: it is not there


async def test_a_result_that_resists_stops_only_the_build_that_needs_its_place(
    ext4_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_parts(ext4_root) as parts:
        ids = await build(parts)
        await parts.builder.delete(ids[1])
    async with resisting(ext4_root / "result-tmp" / ids[1] / "rootfs") as file:
        for _ in range(2):
            caplog.clear()
            async with open_parts(ext4_root) as parts:
                assert f"cannot remove '{file}': Operation not permitted" in caplog.text
                assert "fsck" in caplog.text
                await build(parts, "((from b) (run (shell another)))")
                with pytest.raises(StoreError, match="Operation not permitted") as caught:
                    await build(parts)
                assert "fsck --repair" in (caught.value.hint or "")
                report = await parts.builder.check(repair=True)
                (fault,) = report.faults
                assert (fault.code, fault.key) == ("fsck.leftover-result", ids[1])
                assert "Operation not permitted" in (fault.why_not or "")
                assert await prune_all(parts) > 0
    async with open_parts(ext4_root) as parts:
        assert parts.temporary() == []
        assert await build(parts) == ids


async def test_a_copy_of_a_cache_that_resists_is_in_nobodys_way(
    ext4_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with resisting(ext4_root / "cache-tmp" / "0123456789ab-c"), open_parts(ext4_root) as one:
        assert "Operation not permitted" in caplog.text
        await build(one, WITH_CACHE.format("one"))
        await build(one, WITH_CACHE.format("two"))
    async with open_parts(ext4_root):
        assert os.listdir(ext4_root / "cache-tmp") == []


async def test_what_a_step_left_in_its_cache_resists_and_fails_no_other(
    ext4_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def protect(call: Call) -> None:
        (mount,) = call.config.mounts
        (mount.source / "resists").touch()
        await run(["chattr", "+i", str(mount.source / "resists")])

    sandbox = ScriptedSandbox(scripts={"protect": protect})
    async with open_parts(ext4_root, sandbox=sandbox) as parts:
        await build(parts, WITH_CACHE.format("protect"))
        try:
            await build(parts, WITH_CACHE.format("two"))
            await build(parts, WITH_CACHE.format("three"))
            assert "Operation not permitted" in caplog.text
            assert len(os.listdir(ext4_root / "cache-tmp")) == 1
        finally:
            await run(["chattr", "-R", "-i", str(ext4_root / "cache-tmp")])


class FailingDisk(RsyncStore):
    """A disk that fails where temporary results are."""

    async def remove_tree(self, path: Path) -> None:
        if path.parent == self.root / "result-tmp":
            raise StoreError(f"cannot remove {path}") from OSError(EIO, os.strerror(EIO))
        await super().remove_tree(path)


async def test_a_disk_that_fails_is_no_leftovers_own_fault(tmp_path: Path) -> None:
    (tmp_path / "result-tmp" / ("7" * 64)).mkdir(parents=True)
    with pytest.raises(StoreError) as caught:
        async with open_parts(tmp_path, kind=FailingDisk):
            pytest.fail("opened")
    assert caught.value.code == "store.io"


async def test_clean_goes_past_what_resists_knows_it_no_more_and_tells_it_at_the_end(
    ext4_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_parts(ext4_root) as parts:
        (_, _, leaf) = await build(parts)
        (base, other) = await build(parts, "((from c) (run (shell one)))")
        await build(parts, WITH_CACHE.format("cached"))
        gone: list[str] = []
        async with (
            resisting(ext4_root / "result" / leaf, ext4_root / "result-tmp"),
            resisting(ext4_root / "cache" / "c", ext4_root / "cache-tmp"),
        ):
            with pytest.raises(StoreError, match=r"cache-tmp.*Operation not permitted"):
                await parts.builder.clean(on_delete=gone.append)
            assert os.listdir(ext4_root / "result") == []
            assert known(ext4_root) == set()
            assert await parts.store.caches() == []
    assert {base, other} < set(gone)
    assert "cache c" not in gone
    assert caplog.text.count("Operation not permitted") == 2
    async with open_parts(ext4_root):
        assert os.listdir(ext4_root / "result-tmp") == os.listdir(ext4_root / "cache-tmp") == []


class Stopped(RsyncStore):
    """Its removals are cancelled in the middle, by `stop`; `ended` are those that went on."""

    stop: Callable[[], None]
    ended: Sequence[Path] = ()

    async def remove_tree(self, path: Path) -> None:
        if path.exists():
            first = next(each for each in sorted(path.rglob("*")) if each.is_file())
            first.unlink()
            type(self).stop()
            await anyio.lowlevel.checkpoint()
            type(self).ended = (*self.ended, path)
        await super().remove_tree(path)


@pytest.mark.parametrize("left", ["result-tmp/" + "7" * 64, "cache-tmp/0123456789ab-c"])
async def test_who_opens_can_be_stopped_while_leftovers_are_removed(
    tmp_path: Path, left: str
) -> None:
    for name in ("one", "two"):
        (tmp_path / left / name).mkdir(parents=True)
        (tmp_path / left / name / "file").touch()

    class Store(Stopped):
        pass

    with anyio.CancelScope() as scope:
        Store.stop = scope.cancel
        async with open_parts(tmp_path, kind=Store):
            pytest.fail("opened")
    assert scope.cancelled_caught
    assert Store.ended == ()
    assert (tmp_path / left).exists()
    async with open_parts(tmp_path) as parts:
        assert not (tmp_path / left).exists()
        assert (await parts.builder.check()).findings == ()


async def test_who_is_stopped_while_a_cache_is_removed_leaves_none(tmp_path: Path) -> None:
    found: list[list[str]] = []

    async def fill(call: Call) -> None:
        (mount,) = call.config.mounts
        for name in ("one", "two"):
            (mount.source / name).touch()

    async def look(call: Call) -> None:
        (mount,) = call.config.mounts
        found.append(os.listdir(mount.source))

    class Store(Stopped):
        pass

    sandbox = ScriptedSandbox(scripts={"fill": fill, "look": look})
    async with open_parts(tmp_path, sandbox=sandbox) as parts:
        await build(parts, WITH_CACHE.format("fill"))
    async with open_parts(tmp_path, kind=Store) as parts:
        with anyio.CancelScope() as scope:
            Store.stop = scope.cancel
            await parts.store.delete_cache("c")
        assert scope.cancelled_caught
        assert await parts.store.caches() == []
        (finding,) = (await parts.builder.check()).findings
        assert finding.code == "fsck.leftover-cache-copy"
    async with open_parts(tmp_path, sandbox=sandbox) as parts:
        assert os.listdir(tmp_path / "cache-tmp") == []
        await build(parts, WITH_CACHE.format("look"))
    assert found == [[]]


@pytest.mark.parametrize("kind", [RsyncStore, ReflinkStore])
async def test_subvolumes_that_a_step_makes_are_in_nobodys_way(
    btrfs_root: Path, kind: type[Store[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async def make(call: Call) -> None:
        for place in (call.rootfs, *(mount.source for mount in call.config.mounts)):
            volume = place / call.config.argv[-1]  # another's in the cache may be there
            await run(["btrfs", "subvolume", "create", str(volume)])
            (volume / "file").touch()

    async def make_and_fail(call: Call) -> None:
        await make(call)
        raise StoreError("failed")

    sandbox = ScriptedSandbox(scripts={"make": make, "fail": make_and_fail})
    with caplog.at_level(logging.WARNING):
        async with open_parts(btrfs_root, sandbox=sandbox, kind=kind) as parts:
            with pytest.raises(StoreError, match=r"^failed$"):
                await build(parts, WITH_CACHE.format("fail"))
            await build(parts, WITH_CACHE.format("make"))
            await build(parts, WITH_CACHE.format("innocent"))
            assert os.listdir(btrfs_root / "result-tmp") == []
            assert os.listdir(btrfs_root / "cache-tmp") == []
        async with open_parts(btrfs_root, kind=kind) as parts:
            await parts.builder.clean()
            assert os.listdir(btrfs_root / "result") == []
            assert os.listdir(btrfs_root / "cache") == []
    assert caplog.messages == []


@pytest.mark.parametrize("parent", [1, 2, 3], ids=["itself", "its-child", "its-grandchild"])
async def test_what_a_damaged_row_says_was_built_on_what_was_built_on_it_can_be_deleted(
    tmp_path: Path, parent: int
) -> None:
    async with open_parts(tmp_path) as parts:
        ids = await build(parts, "((from b) (run (shell one)) (run (shell two)) (run (shell 3)))")
        path = tmp_path / "state/db/db.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("UPDATE builds SET rc = rc - 1 WHERE id = ?", (ids[0],))
            database.execute("UPDATE builds SET rc = rc + 1 WHERE id = ?", (ids[parent],))
            database.execute("UPDATE builds SET parent = ? WHERE id = ?", (ids[parent], ids[1]))
        with anyio.fail_after(60):
            assert await parts.builder.delete(ids[1]) == 3
        assert known(tmp_path) == {ids[0]}
        assert (await parts.builder.check()).findings == ()


@pytest.mark.parametrize("kind", [RsyncStore, BtrfsStore])
async def test_what_is_mounted_in_a_result_is_not_emptied(
    btrfs_root: Path, kind: type[Store[Any]]
) -> None:
    async def make(call: Call) -> None:
        (call.rootfs / "src").mkdir()

    elsewhere = btrfs_root / "elsewhere"
    elsewhere.mkdir()
    await run(["btrfs", "subvolume", "create", str(elsewhere / "work")])
    for place in (elsewhere, elsewhere / "work"):
        (place / "file").touch()
    sandbox = ScriptedSandbox(scripts={"one": make})
    root = btrfs_root / "store"
    root.mkdir()
    async with open_parts(root, sandbox=sandbox, kind=kind) as parts:
        first, *_ = [
            id for id in await build(parts) if (root / "result" / id / "rootfs/src").exists()
        ]
        place = root / "result" / first / "rootfs" / "src"
        await run(["mount", "--bind", str(elsewhere), str(place)])
        try:
            with pytest.raises(StoreError, match=r"is mounted|busy"):
                await parts.builder.delete(first)
        finally:
            await unmount_below(root)
        assert (elsewhere / "file").exists()
        assert (elsewhere / "work" / "file").exists()
    async with open_parts(root, kind=kind) as parts:
        assert await parts.builder.check() == await parts.builder.check(repair=True)
        assert os.listdir(root / "result-tmp") == []


async def test_what_resists_counts_as_removed_and_is_told_at_the_end(ext4_root: Path) -> None:
    async def resist(call: Call) -> None:
        (call.rootfs / "resists").touch()

    names = ("one", "two", "three", "four")
    sandbox = ScriptedSandbox(scripts=dict.fromkeys(names, resist))
    async with open_parts(ext4_root, sandbox=sandbox) as parts:
        for name in names:
            *_, id = await build(parts, f"((from b) (run (shell {name})))")
            await run(["chattr", "+i", str(ext4_root / "result" / id / "rootfs" / "resists")])
        try:
            for limit, gone in ((1, 1), (9, 4)):  # the second time three of them resist
                with pytest.raises(StoreError, match="Operation not permitted"):
                    await parts.builder.prune(
                        before=datetime.now(UTC) + timedelta(days=1), limit=limit
                    )
                assert len(os.listdir(ext4_root / "result-tmp")) == gone
                assert len(os.listdir(ext4_root / "result")) == len(names) + 1 - gone
        finally:
            await run(["chattr", "-R", "-i", str(ext4_root)])


async def test_words_of_a_file_name_do_not_shut_the_store(ext4_root: Path) -> None:
    left = ext4_root / "result-tmp" / ("7" * 64)
    place = left / "No space left on device" / "Read-only file system"
    async with resisting(place), open_parts(ext4_root) as parts:
        assert len(await build(parts)) > 0


async def test_a_cache_that_is_a_link_to_nowhere_can_be_removed(ext4_root: Path) -> None:
    async with open_parts(ext4_root) as parts:
        (ext4_root / "cache" / "gone").symlink_to("/nowhere")
        await parts.builder.clean()
        assert os.listdir(ext4_root / "cache") == []
        assert os.listdir(ext4_root / "cache-tmp") == []
