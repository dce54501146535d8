"""The btrfs store keeps the promises of a store, and results that nothing can change."""

import errno
import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest
from support.store_promises import StorePromises
from support.store_tools import (
    AnyStore,
    OpenStore,
    built,
    describe,
    failing_build,
    make_rich_tree,
    new_id,
)

from obuilder.errors import ConfigError, StoreError
from obuilder.types import ROOT, Leftover, LeftoverKind
from obuilder_store_btrfs import BtrfsStore, subvolume

pytestmark = pytest.mark.anyio


@pytest.fixture
def open_store(btrfs_root: Path) -> OpenStore:
    def opened() -> AbstractAsyncContextManager[AnyStore]:
        return BtrfsStore.open(str(btrfs_root / "store"), BtrfsStore.Config())

    return opened


class TestBtrfsStore(StorePromises):
    """All the promises."""


async def test_a_result_cannot_be_changed(open_store: OpenStore) -> None:
    async with open_store() as store:
        saved = await store.result(await built(store))
        assert saved
        with pytest.raises(OSError) as caught:
            (saved / "rootfs" / "content").write_text("changed")
        assert caught.value.errno == errno.EROFS
        assert not list((store.state_dir / "publishing").iterdir())


async def test_a_result_that_a_crash_left_writable_is_protected_by_the_next_open(
    open_store: OpenStore,
) -> None:
    async with open_store() as store:
        id = await built(store)
        saved = store.root / "result" / id
        await subvolume.set_read_only(saved, value=False)
        (store.state_dir / "publishing" / id).touch()
        # Of a builder that is before its rename.
        (store.state_dir / "publishing" / new_id()).touch()
    async with open_store() as store:
        assert subvolume.is_read_only(saved)
        assert len(list((store.state_dir / "publishing").iterdir())) == 1


async def test_a_result_without_the_flag_gets_it_when_it_is_used(open_store: OpenStore) -> None:
    async with open_store() as store:
        id = await built(store)
        await subvolume.set_read_only(store.root / "result" / id, value=False)
        saved = await store.result(id)
        assert saved
        assert subvolume.is_read_only(saved)


async def test_a_read_only_cache_as_obuilder_leaves_it_gets_a_new_version(
    open_store: OpenStore,
) -> None:
    async with open_store() as store:
        current = store.root / "cache" / "c-theirs"
        await subvolume.create(current)
        (current / "file").write_text("theirs")
        await subvolume.set_read_only(current, value=True)
        async with store.cache("theirs", user=ROOT) as copy:
            assert (copy / "file").read_text() == "theirs"
            (copy / "file").write_text("ours")
        assert (current / "file").read_text() == "ours"
        await subvolume.set_read_only(current, value=True)
        await store.delete_cache("theirs")
        assert not current.exists()


async def test_obuilder_can_remove_what_a_crash_leaves(open_store: OpenStore) -> None:
    # It takes each for a subvolume, and does not start if that is wrong.
    async with open_store() as store, store.build(new_id()), store.cache("c", user=ROOT):
        left = [*store.root.glob("result-tmp/*"), *store.root.glob("cache-tmp/*")]
        assert len(left) == 2
        assert all(subvolume.is_subvolume(path) for path in left)


async def test_a_commit_whose_flag_fails_leaves_no_result(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(path: Path, *, value: bool) -> None:
        raise StoreError("no flag today")

    id = new_id()
    async with open_store() as store:
        monkeypatch.setattr(subvolume, "set_read_only", fail)
        with pytest.raises(StoreError, match="no flag"):
            async with store.build(id):
                pass
        assert await store.result(id) is None
        assert await store.leftovers() == []
        assert not list((store.state_dir / "publishing").iterdir())


async def test_subvolumes_that_a_step_leaves_fail_the_commit(open_store: OpenStore) -> None:
    async with open_store() as store:
        with pytest.raises(StoreError) as caught:  # noqa: PT012 - what fails is the block's end
            async with store.build(new_id()) as path:
                (path / "rootfs").mkdir()
                await subvolume.create(path / "rootfs" / "sub")
                (path / "rootfs" / "sub" / "file").touch()
        assert caught.value.code == "store.nested-subvolume"
        assert not path.exists()


async def test_nested_subvolumes_are_removed_with_a_failed_build(open_store: OpenStore) -> None:
    async def nest(path: Path) -> None:
        (path / "dir").mkdir()
        await subvolume.create(path / "dir" / "sub")
        await subvolume.create(path / "dir" / "sub" / "deeper")
        await subvolume.set_read_only(path / "dir" / "sub", value=True)

    async with open_store() as store:
        path = await failing_build(store, new_id(), nest)
        assert path.parent.name == "result-tmp"
        assert not path.exists()


async def test_a_result_with_nested_subvolumes_is_deleted_whole(open_store: OpenStore) -> None:
    id = new_id()
    async with open_store() as store:
        saved = store.root / "result" / id
        await subvolume.create(saved)
        await subvolume.create(saved / "sub")
        await subvolume.set_read_only(saved, value=True)
        await store.delete(id)
        assert not saved.exists()
        assert await store.leftovers() == []


async def test_nested_subvolumes_in_a_cache_can_be_deleted(open_store: OpenStore) -> None:
    async with open_store() as store:
        async with store.cache("c", user=ROOT) as path:
            await subvolume.create(path / "sub")
        await store.delete_cache("c")
        assert await store.caches() == []


async def test_a_cache_that_obuilder_left_read_only_is_deleted(open_store: OpenStore) -> None:
    async with open_store() as store:
        async with store.cache("c", user=ROOT) as path:
            (path / "file").touch()
        await subvolume.set_read_only(store.root / "cache" / "c-c", value=True)
        await store.delete_cache("c")
        assert await store.caches() == []
        assert await store.leftovers() == []


async def test_caches_are_named_as_obuilder_names_them(open_store: OpenStore) -> None:
    async with open_store() as store:
        async with store.cache(".a/b", user=ROOT):
            pass
        assert [path.name for path in (store.root / "cache").iterdir()] == ["c-.a%2fb"]


async def test_a_store_of_plain_directories_can_be_emptied(open_store: OpenStore) -> None:
    async with open_store() as store:
        id = new_id()
        make_rich_tree(store.root / "result" / id)
        assert describe(store.root / "result" / id)
        assert await store.result(id)
        await store.delete(id)
        assert await store.result(id) is None


async def test_discarding_forgets_an_unfinished_commit(open_store: OpenStore) -> None:
    id = new_id()
    async with open_store() as store:
        (store.state_dir / "publishing" / id).touch()
        await store.discard(Leftover(kind=LeftoverKind.RESULT, key=id))
        assert not list((store.state_dir / "publishing").iterdir())


async def test_deleted_space_is_free_again(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.complete_deletes()
        before = await store.df()
        id = new_id()
        async with store.build(id) as path:
            (path / "big").write_bytes(os.urandom(64 << 20))
            assert await store.size_added(id) == 64 << 20
        during = await store.df()
        await store.delete(id)
        await store.complete_deletes()
        assert during < before - 2
        assert await store.df() > during + 2


async def test_another_file_system_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for location in (tmp_path, tmp_path / "missing" / "too"):
        with pytest.raises(ConfigError, match="not on a btrfs") as caught:
            async with BtrfsStore.open(str(location), BtrfsStore.Config()):
                pytest.fail("opened")
        assert "mkfs.btrfs" in (caught.value.hint or "")
    assert not await anyio.Path(tmp_path / "missing").exists()


async def test_an_ordinary_user_is_refused(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="root") as caught:
        async with open_store():
            pytest.fail("opened")
    assert caught.value.code == "store.not-root"
