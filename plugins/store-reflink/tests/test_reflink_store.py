"""The reflink store keeps the promises of a store and shares blocks, on xfs and on btrfs."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from support.filesystems import mounted_image
from support.store_promises import StorePromises
from support.store_tools import AnyStore, OpenStore, new_id

from obuilder.errors import ConfigError, StoreError
from obuilder.types import ROOT, Id
from obuilder_store_reflink import ReflinkStore

pytestmark = pytest.mark.anyio

MIB = 1 << 20


def opener(root: Path) -> OpenStore:
    def opened() -> AbstractAsyncContextManager[AnyStore]:
        return ReflinkStore.open(str(root / "store"), ReflinkStore.Config())

    return opened


class TestReflinkStoreOnXfs(StorePromises):
    """All the promises, on xfs."""

    @pytest.fixture
    def open_store(self, xfs_root: Path) -> OpenStore:
        return opener(xfs_root)


class TestReflinkStoreOnBtrfs(StorePromises):
    """All the promises, on btrfs."""

    @pytest.fixture
    def open_store(self, btrfs_root: Path) -> OpenStore:
        return opener(btrfs_root)


@pytest.fixture(params=["xfs", "btrfs"])
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    return opener(request.getfixturevalue(f"{request.param}_root"))


def used_bytes(path: Path) -> int:
    space = os.statvfs(path)
    return (space.f_blocks - space.f_bfree) * space.f_frsize


async def big_base(store: AnyStore) -> Id:
    id = new_id()
    async with store.build(id) as path:
        (path / "rootfs").mkdir()
        (path / "rootfs" / "big").write_bytes(os.urandom(64 * MIB))
    await store.complete_deletes()
    return id


async def test_a_clone_takes_no_room_for_data(open_store: OpenStore) -> None:
    async with open_store() as store:
        base = await big_base(store)
        before = used_bytes(store.root)
        child = new_id()
        async with store.build(child, base=base) as path:
            assert await store.size_added(child) == 0
            with (path / "rootfs" / "big").open("r+b") as file:
                file.write(b"own")
        await store.complete_deletes()
        assert used_bytes(store.root) - before < 16 * MIB
        saved = await store.result(base)
        assert saved
        with (saved / "rootfs" / "big").open("rb") as file:
            assert file.read(3) != b"own"


async def test_a_cache_is_cloned_too(open_store: OpenStore) -> None:
    async with open_store() as store:
        async with store.cache("c", user=ROOT) as path:
            (path / "big").write_bytes(os.urandom(64 * MIB))
        await store.complete_deletes()
        before = used_bytes(store.root)
        async with store.cache("c", user=ROOT) as path:
            assert (path / "big").stat().st_size == 64 * MIB
            await store.complete_deletes()
            assert used_bytes(store.root) - before < 16 * MIB


async def test_deleted_space_is_free_again(open_store: OpenStore) -> None:
    async with open_store() as store:
        base = await big_base(store)
        during = await store.df()
        await store.delete(base)
        await store.complete_deletes()
        assert await store.df() > during + 2


async def test_access_control_lists_are_kept(open_store: OpenStore) -> None:
    # Version 2; user::rw- user:1234:rwx group::r-- mask::rwx other::r--
    nobody = 0xFFFFFFFF
    entries = ((1, 6, nobody), (2, 7, 1234), (4, 4, nobody), (0x10, 7, nobody), (0x20, 4, nobody))
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + id.to_bytes(4, "little")
        for tag, perm, id in entries
    )
    async with open_store() as store:
        base = new_id()
        async with store.build(base) as path:
            (path / "rootfs" / "dir").mkdir(parents=True)
            (path / "rootfs" / "file").touch()
            os.setxattr(path / "rootfs" / "file", "system.posix_acl_access", acl)
            os.setxattr(path / "rootfs" / "dir", "system.posix_acl_default", acl)
        async with store.build(new_id(), base=base) as path:
            kept = os.getxattr(path / "rootfs" / "file", "system.posix_acl_access")
            assert kept == acl
            kept = os.getxattr(path / "rootfs" / "dir", "system.posix_acl_default")
            assert kept == acl


async def test_paths_of_four_thousand_bytes_are_cloned(open_store: OpenStore) -> None:
    def deep(root: Path, *, make: bool) -> int:
        directory = os.open(root, os.O_RDONLY)
        for name in ["d" * 199] * 20:
            if make:
                os.mkdir(name, dir_fd=directory)
            below = os.open(name, os.O_RDONLY, dir_fd=directory)
            os.close(directory)
            directory = below
        return directory

    async with open_store() as store:
        base, child = new_id(), new_id()
        async with store.build(base) as path:
            directory = deep(path, make=True)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
            os.close(directory)
        async with store.build(child, base=base) as path:
            directory = deep(path, make=False)
            assert os.listdir(directory) == ["file"]
            os.close(directory)
        await store.delete(child)
        await store.delete(base)
        assert await store.leftovers() == []


async def test_what_cannot_be_cloned_is_an_error_and_not_a_full_copy(
    btrfs_root: Path,
) -> None:
    # Blocks of a file that is exempt from copy-on-write cannot be shared with one that is not.
    get_flags, set_flags, no_cow = 0x80086601, 0x40086602, 0x00800000
    async with opener(btrfs_root)() as store:
        base = new_id()
        async with store.build(base) as path:
            (path / "file").touch()
            descriptor = os.open(path / "file", os.O_RDONLY)
            flags = bytearray(fcntl.ioctl(descriptor, get_flags, bytes(8)))
            flags[2] |= no_cow >> 16
            fcntl.ioctl(descriptor, set_flags, bytes(flags))
            os.close(descriptor)
            (path / "file").write_bytes(b"x" * MIB)
        with pytest.raises(StoreError, match="failed to clone") as caught:
            async with store.build(new_id(), base=base):
                pytest.fail("copied")
        assert caught.value.hint
        assert await store.leftovers() == []


@pytest.fixture(scope="module")
def xfs_without_reflinks() -> Iterator[Path]:
    with mounted_image("mkfs.xfs", "-q", "-m", "reflink=0") as mounted:
        yield mounted


async def test_a_file_system_without_reflinks_is_refused_with_the_remedy(
    xfs_without_reflinks: Path, ext4_root: Path
) -> None:
    for root in (xfs_without_reflinks, ext4_root):
        with pytest.raises(ConfigError, match="cannot clone a file") as caught:
            async with opener(root)():
                pytest.fail("opened")
        assert "mkfs.xfs -m reflink=1" in (caught.value.hint or "")
        assert caught.value.code == "store.location"
        assert list((root / "store" / "result-tmp").iterdir()) == []
