"""Free space of a zfs store, and when what was deleted counts as free."""

import os

import pytest
from support.store_tools import new_id
from support.zfs_tools import zfs

from obuilder_store_zfs import ZfsStore

pytestmark = pytest.mark.anyio

_BIG_BYTES = 64 << 20


async def test_deleted_space_is_free_again(zfs_name: str) -> None:
    async with ZfsStore.open(zfs_name, ZfsStore.Config()) as store:
        await zfs("set", "quota=256M", zfs_name)
        await store.complete_deletes()
        before, id = await store.df(), new_id()
        async with store.build(id) as path:
            (path / "big").write_bytes(os.urandom(_BIG_BYTES))
            size = await store.size_added(id)
            assert size is not None
            assert _BIG_BYTES <= size < 1.05 * _BIG_BYTES
        during = await store.df()
        await store.delete(id)
        await store.complete_deletes()
        assert during < before - 20
        assert await store.df() > during + 20


async def test_a_quota_counts_where_it_leaves_less_than_the_pool(zfs_name: str) -> None:
    async with ZfsStore.open(zfs_name, ZfsStore.Config()) as store:
        free = await store.df()
        await zfs("set", "quota=32M", zfs_name)
        async with store.build(new_id()) as path:
            (path / "big").write_bytes(os.urandom(16 << 20))
        assert 30 < await store.df() < 55
        assert await store.df() < free
