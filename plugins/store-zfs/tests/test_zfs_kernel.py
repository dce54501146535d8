"""What only the kernel's ZFS can: legacy mounts, names of snapshots, read-only for good."""

import os
from pathlib import Path

import pytest
from support.store_tools import built, new_id
from support.zfs_tools import calls_counted, names_below, zfs

from obuilder.process import run
from obuilder.result_stream import Header, receive, receive_header
from obuilder.types import ROOT
from obuilder_store_zfs import ZfsStore

pytestmark = pytest.mark.anyio


async def test_a_legacy_data_set_serves_where_it_is_mounted(zfs_name: str, tmp_path: Path) -> None:
    await zfs("create", "-o", "mountpoint=legacy", zfs_name)
    await run(["mount", "-t", "zfs", zfs_name, str(tmp_path)])
    try:
        for location in (zfs_name, str(tmp_path), f"{zfs_name}/below"):
            async with ZfsStore.open(location, ZfsStore.Config()) as store:
                base = await built(store, "base")
                child = await built(store, "child", base=base)
                await run(["umount", str(store.root / "result" / base)])
                saved = await store.result(base)
                assert saved
                assert (saved / "rootfs" / "content").read_text() == "base"
                for text in ("1", "2"):
                    async with store.cache("c", user=ROOT) as path:
                        (path / text).touch()
                async with store.cache("c", user=ROOT) as path:
                    assert sorted(os.listdir(path)) == ["1", "2"]
                await store.delete_cache("c")
                await store.delete(child)
                await store.delete(base)
                assert os.listdir(store.root / "result") == []
                assert os.listdir(store.root / "cache") == []
                assert os.listdir(store.root / "cache-tmp") == []
    finally:
        await run(["umount", "-R", str(tmp_path)])


async def test_a_saved_result_is_seen_without_a_program(
    zfs_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ZfsStore.open(zfs_name, ZfsStore.Config()) as store:
        id = await built(store)
        with calls_counted(monkeypatch) as calls:
            assert await store.result(id)
        assert calls == []
        mounted = Path("/proc/self/mounts").read_text()
        assert ".zfs/snapshot" not in mounted


async def test_a_destroyed_result_is_not_seen_though_its_directory_remains(zfs_name: str) -> None:
    async with ZfsStore.open(zfs_name, ZfsStore.Config()) as store:
        id = await built(store)
        await zfs("destroy", f"{zfs_name}/result/{id}@snap")
        async with store.build(new_id()):
            pass
        await zfs("unmount", f"{zfs_name}/result/{id}")
        await zfs("mount", f"{zfs_name}/result/{id}")
        assert await store.result(id) is None


async def test_obuilders_own_release_of_a_cache_leaves_what_we_can_use(zfs_name: str) -> None:
    async with ZfsStore.open(zfs_name, ZfsStore.Config()) as store:
        async with store.cache("c", user=ROOT) as path:
            (path / "file").write_text("ours")
        cache, copy = f"{zfs_name}/cache/c-c", f"{zfs_name}/cache-tmp/0-c-c"
        await zfs("clone", f"{cache}@snap", copy)
        (store.root / "cache-tmp" / "0-c-c" / "file").write_text("theirs")
        await zfs("rename", cache, f"{zfs_name}/cache-tmp/1-c-c")
        await zfs("promote", copy)
        await zfs("destroy", f"{zfs_name}/cache-tmp/1-c-c")
        await zfs("rename", f"{copy}@snap", f"{copy}@old-0")
        await zfs("destroy", "-d", f"{copy}@old-0")
        await zfs("snapshot", f"{copy}@snap")
        await zfs("rename", copy, cache)
        async with store.cache("c", user=ROOT) as path:
            assert (path / "file").read_text() == "theirs"
        assert await names_below(f"{zfs_name}/cache") == ["c-c", "c-c@snap"]


async def test_a_stream_brings_no_mount_point(zfs_name: str, tmp_path: Path) -> None:
    """As a hostile one would, to lie over a directory of the machine."""
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "mine").touch()
    source, stream = f"{zfs_name}-sent", tmp_path / "stream"
    await zfs("create", source)
    await zfs("set", "setuid=off", source)
    point = Path(await zfs("get", "-H", "-o", "value", "mountpoint", source))
    (point / "rootfs").mkdir()
    await zfs("snapshot", f"{source}@snap")
    await zfs("umount", source)
    await zfs("set", "canmount=noauto", f"mountpoint={evil}", source)
    id = new_id()
    with stream.open("w+b") as file:
        line = Header(id=id, format="zfs").line()
        sent = await run(["zfs", "send", "-p", f"{source}@snap"])
        file.write(line + (await run(["zstd", "-q", "-c"], stdin=line + sent.stdout)).stdout)
        file.flush()
        file.seek(0)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        async with ZfsStore.open(zfs_name, ZfsStore.Config()) as store:
            header = await receive_header(file.fileno())
            async with receive(store, header, file.fileno()) as path:
                assert path == store.root / "result" / id
                assert os.path.ismount(path)
                assert not os.path.ismount(evil)
            name = f"{zfs_name}/result/{id}"
            assert await zfs("get", "-H", "-o", "value", "setuid,readonly", name) == "on\non"
    assert [path.name for path in evil.iterdir()] == ["mine"]
    await zfs("destroy", "-r", source)
