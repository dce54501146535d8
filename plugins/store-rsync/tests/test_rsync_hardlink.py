"""The rsync store's modes that share files between results, and what can never happen to them."""

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from support.store_promises import StorePromises
from support.store_tools import AnyStore, OpenStore, describe, make_rich_tree, new_id

from obuilder.errors import StoreError
from obuilder.process import run
from obuilder.types import Id
from obuilder_store_rsync import RsyncStore, sharing

pytestmark = pytest.mark.anyio

Change = Callable[[Path], object]


def opener(tmp_path: Path, mode: str) -> OpenStore:
    def opened() -> AbstractAsyncContextManager[AnyStore]:
        config = RsyncStore.Config(mode=mode)  # type: ignore[arg-type] # of the two below
        return RsyncStore.open(str(tmp_path / "store"), config)

    return opened


class TestHardlink(StorePromises):
    """All the promises, with files shared by content."""

    @pytest.fixture
    def open_store(self, ext4_root: Path) -> OpenStore:
        return opener(ext4_root, "hardlink")

    @pytest.fixture
    def options(self) -> str:
        return '{"mode": "hardlink"}'


class TestHardlinkUnsafe(StorePromises):
    """All the promises, with files shared by size and time."""

    @pytest.fixture
    def open_store(self, ext4_root: Path) -> OpenStore:
        return opener(ext4_root, "hardlink_unsafe")

    @pytest.fixture
    def options(self) -> str:
        return '{"mode": "hardlink_unsafe"}'


@pytest.fixture(params=["hardlink", "hardlink_unsafe"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    return opener(tmp_path, request.param)


async def step(store: AnyStore, change: Change, *, base: Id | None = None) -> tuple[Id, Path]:
    """A result that `change` made, and its root file system."""
    id = new_id()
    async with store.build(id, base=base) as path:
        (path / "rootfs").mkdir(exist_ok=True)
        change(path / "rootfs")
    saved = await store.result(id)
    assert saved
    return id, saved / "rootfs"


def inode(path: Path) -> int:
    return path.lstat().st_ino


async def test_unchanged_files_are_shared_and_changed_ones_are_not(open_store: OpenStore) -> None:
    def first(root: Path) -> None:
        for name in ("same", "written", "mode", "owner", "time", "attribute", "removed"):
            (root / name).write_text(name)

    def second(root: Path) -> None:
        (root / "written").write_text("changed")
        (root / "mode").chmod(0o600)
        os.chown(root / "owner", 1, 2)
        os.utime(root / "time", ns=(1, 2))
        os.setxattr(root / "attribute", "user.note", b"new")
        (root / "removed").unlink()
        (root / "added").touch()

    async with open_store() as store:
        base, below = await step(store, first)
        before = describe(below)
        _, above = await step(store, second, base=base)
        shared = [path.name for path in below.iterdir() if inode(path) == _inode(above / path.name)]
        assert shared == ["same"]
        assert describe(below) == before
        assert (above / "written").read_text() == "changed"


def _inode(path: Path) -> int | None:
    return inode(path) if path.exists() else None


async def test_a_later_step_that_writes_in_place_changes_no_result(open_store: OpenStore) -> None:
    def write_in_place(root: Path) -> None:
        with (root / "file").open("r+") as file:
            file.write("BASE")

    async with open_store() as store:
        base, below = await step(store, lambda root: (root / "file").write_text("base"))
        middle, between = await step(store, lambda root: (root / "new").touch(), base=base)
        assert inode(below / "file") == inode(between / "file")
        _, above = await step(store, write_in_place, base=middle)
        contents = [(root / "file").read_text() for root in (below, between, above)]
        assert contents == ["base", "base", "BASE"]


async def test_a_step_sees_the_link_counts_of_its_own_tree(open_store: OpenStore) -> None:
    async with open_store() as store:
        base, _ = await step(store, lambda root: (root / "file").touch())
        middle, _ = await step(store, lambda root: None, base=base)
        async with store.build(new_id(), base=middle) as path:
            # gzip, for one, refuses a file with other names.
            assert (path / "rootfs" / "file").stat().st_nlink == 1


async def test_every_name_of_a_file_is_linked_or_none(open_store: OpenStore) -> None:
    def first(root: Path) -> None:
        (root / "dir").mkdir()
        (root / "dir" / "one").write_text("x")
        (root / "other").hardlink_to(root / "dir" / "one")

    async with open_store() as store:
        base, below = await step(store, first)
        _, above = await step(
            store, lambda root: (root / "z").hardlink_to(root / "other"), base=base
        )
        names = [above / "dir" / "one", above / "other", above / "z"]
        assert {inode(name) for name in names} == {inode(below / "other")}
        assert describe(above)["z"][:5] == describe(below)["other"][:5]


async def test_what_became_two_files_is_not_made_one_again(open_store: OpenStore) -> None:
    def first(root: Path) -> None:
        (root / "a").write_text("x")
        (root / "b").hardlink_to(root / "a")
        os.utime(root / "a", ns=(1, 2))

    def split(root: Path) -> None:
        (root / "b").unlink()
        (root / "b").write_text("x")
        os.utime(root / "b", ns=(1, 2))

    async with open_store() as store:
        base, _ = await step(store, first)
        middle, above = await step(store, split, base=base)
        assert inode(above / "a") != inode(above / "b")
        _, last = await step(store, lambda root: (root / "a").write_text("y"), base=middle)
        assert (last / "b").read_text() == "x"


async def test_everything_but_inodes_is_as_in_a_plain_copy(open_store: OpenStore) -> None:
    async with open_store() as store:
        id = new_id()
        async with store.build(id) as path:
            make_rich_tree(path / "rootfs")
        saved = await store.result(id)
        assert saved
        expected = describe(saved / "rootfs")
        child, above = await step(store, lambda root: os.utime(root, ns=(5, 5)), base=id)
        found = describe(above)
        assert found.pop(".") != expected.pop(".")
        assert found == expected
        assert inode(above / "sparse") == inode(saved / "rootfs" / "sparse")
        await store.delete(child)
        expected.update({".": describe(saved / "rootfs")["."]})
        assert describe(saved / "rootfs") == expected


@pytest.mark.parametrize(("mode", "shared"), [("hardlink", False), ("hardlink_unsafe", True)])
async def test_only_the_safe_mode_reads_what_has_the_same_size_and_time(
    tmp_path: Path, mode: str, shared: bool
) -> None:
    def write(text: str) -> Change:
        def change(root: Path) -> None:
            (root / "file").write_text(text)
            os.utime(root / "file", ns=(1, 2))

        return change

    async with opener(tmp_path, mode)() as store:
        base, below = await step(store, write("one"))
        _, above = await step(store, write("two"), base=base)
        assert (inode(below / "file") == inode(above / "file")) is shared


async def test_a_file_that_takes_no_more_links_stays_a_copy(ext4_root: Path) -> None:
    most = 65_000  # of ext4
    async with opener(ext4_root, "hardlink")() as store:
        base, below = await step(store, lambda root: (root / "file").write_text("x"))
        names = store.root / "names"
        names.mkdir()
        for number in range(most - 1):
            os.link(below / "file", names / str(number))
        _, above = await step(store, lambda root: None, base=base)
        assert (above / "file").read_text() == "x"
        assert inode(above / "file") != inode(below / "file")
        await run(["rm", "-r", str(names)])


async def test_a_commit_whose_sharing_fails_is_discarded(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, directory: int) -> None:
        raise OSError(5, "Input/output error")

    async with open_store() as store:
        base, _ = await step(store, lambda root: (root / "file").touch())
        monkeypatch.setattr(sharing, "_opened", fail)
        with pytest.raises(StoreError, match="Input/output error"):
            await step(store, lambda root: None, base=base)
        assert await store.leftovers() == []
