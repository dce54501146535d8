"""Caches of the zfs store: a release that a crash cuts short leaves one version whole."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from support.store_tools import AnyStore, OpenStore
from support.zfs_tools import dies_at_call, names_below, zfs

from obuilder import process
from obuilder.errors import StoreError
from obuilder.testing._tools import ODD_NAMES
from obuilder.types import ROOT
from obuilder_store_zfs import ZfsStore, program
from obuilder_store_zfs.caches import naming_below

pytestmark = pytest.mark.anyio


@pytest.fixture
def open_store(zfs_name: str) -> OpenStore:
    def opened() -> AbstractAsyncContextManager[AnyStore]:
        return ZfsStore.open(zfs_name, ZfsStore.Config())

    return opened


async def version(store: AnyStore) -> str | None:
    """What the newest version of the cache holds."""
    async with store.cache("c", user=ROOT) as path:
        file = path / "version"
        return file.read_text() if file.exists() else None


async def write_version(store: AnyStore, text: str) -> None:
    async with store.cache("c", user=ROOT) as path:
        (path / "version").write_text(text)


RELEASE = ("promote", "rename", "snapshot", "destroy", "rename", "destroy")


@pytest.mark.parametrize("number", range(12))
async def test_a_release_that_dies_at_any_point_leaves_the_old_version_or_the_new(
    open_store: OpenStore, zfs_name: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with open_store() as store:
        await write_version(store, "old")
        with dies_at_call(number, monkeypatch) as died:
            await write_version(store, "new")
    async with open_store() as store:
        for leftover in await store.leftovers():
            await store.discard(leftover)
        assert await store.leftovers() == []
        found = await version(store)
        assert found in ("old", "new")
        assert found == "new" or died
        await write_version(store, "newer")
        assert await version(store) == "newer"
        assert await names_below(f"{zfs_name}/cache") == ["c-c", "c-c@snap"]
        assert await names_below(f"{zfs_name}/cache-tmp") == []
        await store.delete_cache("c")
        assert await store.caches() == []


@pytest.mark.parametrize("number", range(6))
async def test_the_first_release_of_a_cache_may_die_at_any_point(
    open_store: OpenStore, zfs_name: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with open_store() as store:
        with dies_at_call(number, monkeypatch):
            await write_version(store, "new")
    async with open_store() as store:
        for leftover in await store.leftovers():
            await store.discard(leftover)
        assert await version(store) in (None, "new")
        assert await names_below(f"{zfs_name}/cache-tmp") == []


async def test_a_dead_release_is_undone_though_others_hold_copies_of_the_old_version(
    open_store: OpenStore, zfs_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store() as store:
        await write_version(store, "old")
        async with store.cache("c", user=ROOT) as copy:
            # Dead after the promotion: the live copy hangs on the dead one's snapshot.
            with dies_at_call(2, monkeypatch):
                await write_version(store, "new")
            dead = [each for each in await store.leftovers() if each.path != copy]
            for leftover in dead:
                await store.discard(leftover)
            assert (copy / "version").read_text() == "old"
        assert await store.leftovers() == []
        assert await version(store) == "old"


async def test_a_release_that_fails_is_undone(
    open_store: OpenStore, zfs_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store() as store:
        await write_version(store, "old")
        with pytest.raises(StoreError, match="is busy"):  # noqa: PT012 - the block's end fails
            async with store.cache("c", user=ROOT) as path:
                (path / "version").write_text("new")
                # What is mounted only when it is looked at must be before its file is held.
                with (store.root / "cache" / "c-c" / "version").open():
                    pass
                held = (store.root / "cache" / "c-c" / "version").open()
                monkeypatch.setattr(program, "BUSY_LIMIT_S", 0.1)
        held.close()
        # zfs-fuse hears of the close some time after it: what follows has the usual patience.
        monkeypatch.undo()
        assert await store.leftovers() == []
        assert await version(store) == "old"


async def test_a_cache_goes_with_the_copies_that_a_crash_left(
    open_store: OpenStore, zfs_name: str
) -> None:
    async with open_store() as store:
        await write_version(store, "old")
        # As OBuilder names them.
        await zfs("clone", f"{zfs_name}/cache/c-c@snap", f"{zfs_name}/cache-tmp/0-c-c")
        await store.delete_cache("c")
        assert await store.caches() == []
        assert await store.leftovers() == []


async def test_a_cache_without_its_snapshot_is_cloned_all_the_same(
    open_store: OpenStore, zfs_name: str
) -> None:
    async with open_store() as store:
        await write_version(store, "old")
        await zfs("destroy", f"{zfs_name}/cache/c-c@snap")
        assert await version(store) == "old"


async def test_a_copy_outlives_two_releases_of_others(open_store: OpenStore, zfs_name: str) -> None:
    async with open_store() as store, open_store() as second:
        await write_version(store, "0")
        async with store.cache("c", user=ROOT) as old:
            await write_version(second, "1")
            async with store.cache("c", user=ROOT) as newer:
                await write_version(second, "2")
                assert (newer / "version").read_text() == "1"
            assert (old / "version").read_text() == "0"
        assert await version(store) == "2"
        assert await names_below(f"{zfs_name}/cache") == ["c-c", "c-c@snap"]


async def test_what_an_earlier_release_left_may_go_before_it_is_removed(
    open_store: OpenStore, zfs_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes with the last copy made from it, which another process may remove at any time."""
    gone: list[str] = []

    async with open_store() as store:
        await write_version(store, "0")
        async with store.cache("c", user=ROOT) as copy:
            await write_version(store, "1")

            async def ending(argv: Sequence[str], **options: Any) -> process.Completed:
                if argv[1:3] == ("destroy", "-d") and not gone:
                    gone.append(argv[3])
                    await zfs("destroy", f"{zfs_name}/cache-tmp/{copy.name}")
                return await process.run(argv, **options)

            with monkeypatch.context() as patch:
                patch.setattr(program, "run", ending)
                await write_version(store, "2")
        assert len(gone) == 1
        assert await version(store) == "2"
        assert await names_below(f"{zfs_name}/cache") == ["c-c", "c-c@snap"]


async def test_long_names_fit_below_a_data_set_with_a_long_name(zfs_name: str) -> None:
    deep = f"{zfs_name}/{'d' * (150 - len(zfs_name) - 1)}"
    async with ZfsStore.open(deep, ZfsStore.Config()) as store:
        for name in ("x" * 200, "x" * 201):
            for _ in range(2):
                async with store.cache(name, user=ROOT) as path:
                    (path / "file").touch()
        assert await store.caches() == ["x" * 200, "x" * 201]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_short_store_names_caches_as_obuilder_does(name: str) -> None:
    raw = name.encode("utf-8", "surrogateescape")
    plain = b"-._abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    escaped = "".join(chr(byte) if byte in plain else f":{byte:02x}" for byte in raw)
    if len(escaped) <= 200:
        assert naming_below("tank").escape(name) == f"c-{escaped}"
