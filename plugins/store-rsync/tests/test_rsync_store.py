"""The rsync store keeps the promises of a store, and says what is wrong with a location."""

import os
import stat
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from support.store_promises import StorePromises
from support.store_tools import AnyStore, OpenStore, built, new_id

from obuilder.errors import ConfigError, StoreError
from obuilder.process import run
from obuilder_store_rsync import RsyncStore

pytestmark = pytest.mark.anyio


# A disk of its own: free space is one of the promises, and others write to the machine's.
@pytest.fixture
def open_store(ext4_root: Path) -> OpenStore:
    def opened() -> AbstractAsyncContextManager[AnyStore]:
        return RsyncStore.open(str(ext4_root / "store"), RsyncStore.Config())

    return opened


class TestRsyncStore(StorePromises):
    """All the promises."""


async def test_access_control_lists_are_kept(open_store: OpenStore) -> None:
    # Version 2; user::rw- user:1234:rwx group::r-- mask::rwx other::r--
    nobody = 0xFFFFFFFF
    entries = ((1, 6, nobody), (2, 7, 1234), (4, 4, nobody), (0x10, 7, nobody), (0x20, 4, nobody))
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + id.to_bytes(4, "little")
        for tag, perm, id in entries
    )
    async with open_store() as store:
        base = await built(store)
        child = new_id()
        async with store.build(base_of := new_id(), base=base) as path:
            os.setxattr(path / "rootfs" / "content", "system.posix_acl_access", acl)
        async with store.build(child, base=base_of) as path:
            kept = os.getxattr(path / "rootfs" / "content", "system.posix_acl_access")
            assert kept == acl


@pytest.mark.parametrize("beside", [0, 300], ids=["small", "removed-in-parts"])
async def test_a_mount_forgotten_inside_is_not_emptied(open_store: OpenStore, beside: int) -> None:
    async with open_store() as store:
        async with store.build(id := new_id()) as path:
            for number in range(beside):
                (path / "rootfs" / f"{number}").mkdir(parents=True)
            (path / "rootfs").mkdir(exist_ok=True)
        inside = store.root / "result" / id / "rootfs" / "mounted"
        moved = store.root / "result-tmp" / id / "rootfs" / "mounted"
        inside.mkdir()
        await run(["mount", "-t", "tmpfs", "none", str(inside)])
        try:
            (inside / "file").touch()
            with pytest.raises(StoreError):
                await store.delete(id)
            assert (moved / "file").exists()
        finally:
            await run(["umount", str(moved)])
        (leftover,) = await store.leftovers()
        await store.discard(leftover)
        assert not moved.exists()


async def test_a_link_in_place_of_a_directory_leads_no_removal_astray(
    open_store: OpenStore, ext4_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = ext4_root / "elsewhere"  # on the same file system, so that it could be moved
    for number in range(300):
        (elsewhere / f"{number}").mkdir(parents=True)
    async with open_store() as store:
        async with store.build(id := new_id()) as path:
            for number in range(300):
                (path / "rootfs" / "home" / f"{number}").mkdir(parents=True)
        home = store.root / "result-tmp" / id / "rootfs" / "home"
        rename = os.rename

        def swap() -> None:
            # Whoever owns it, as the image says, may do so at any time.
            if home.is_dir() and not home.is_symlink():
                rename(home, home.with_name("away"))
                home.symlink_to(elsewhere)

        def swapped_before(*args: Any, **options: Any) -> None:
            swap()
            rename(*args, **options)

        monkeypatch.setattr(os, "rename", swapped_before)
        await store.delete(id)
        assert not os.listdir(store.root / "result-tmp")
    assert len(os.listdir(elsewhere)) == 300


async def test_what_cannot_be_removed_of_a_large_result_is_told(open_store: OpenStore) -> None:
    names = (b"", b"-f ", b"two\nlines ", b"not utf-8 \xff ")
    async with open_store() as store:
        async with store.build(id := new_id()) as path:
            level = os.fsencode(path / "rootfs")
            os.mkdir(level)
            for number in range(300):
                name = os.path.join(level, names[number % len(names)] + b"%d" % number)
                os.mkdir(name)
                Path(os.fsdecode(name), "file").touch()
        await run(["chattr", "+i", str(store.root / "result" / id / "rootfs" / "0" / "file")])
        with pytest.raises(StoreError, match=r"rootfs/0/file': Operation not permitted"):
            await store.delete(id)
        (kept,) = [each for each in (store.root / "result-tmp").rglob("*") if each.is_file()]
        await run(["chattr", "-i", str(kept)])
        (leftover,) = await store.leftovers()
        await store.discard(leftover)
        assert not os.listdir(store.root / "result-tmp")


async def test_an_unknown_mode_is_refused_with_those_there_are(tmp_path: Path) -> None:
    mode: Any = "symlink"
    with pytest.raises(ConfigError) as caught:
        async with RsyncStore.open(str(tmp_path), RsyncStore.Config(mode=mode)):
            pytest.fail("opened")
    assert caught.value.where == "rsync.mode"
    assert "copy, hardlink, hardlink_unsafe" in (caught.value.hint or "")


async def test_a_read_only_location_is_refused(tmp_path: Path) -> None:
    async with RsyncStore.open(str(tmp_path), RsyncStore.Config()):
        pass
    await run(["mount", "--bind", "-o", "ro", str(tmp_path), str(tmp_path)])
    try:
        for location in (tmp_path, tmp_path / "below"):
            with pytest.raises(ConfigError) as caught:
                async with RsyncStore.open(str(location), RsyncStore.Config()):
                    pytest.fail("opened")
            assert caught.value.code == "store.location"
            assert caught.value.hint
    finally:
        await run(["umount", str(tmp_path)])


async def test_a_store_of_two_file_systems_is_refused(tmp_path: Path) -> None:
    results = tmp_path / "result"
    results.mkdir()
    await run(["mount", "-t", "tmpfs", "none", str(results)])
    try:
        with pytest.raises(ConfigError, match="different file systems"):
            async with RsyncStore.open(str(tmp_path), RsyncStore.Config()):
                pytest.fail("opened")
    finally:
        await run(["umount", str(results)])


async def test_results_are_ordinary_directories(open_store: OpenStore) -> None:
    async with open_store() as store:
        saved = await store.result(await built(store))
        assert saved
        assert stat.S_IMODE(saved.stat().st_mode) == 0o755
