"""What makes layers hard: hidden names, hard links, renames, long chains, long paths."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import pytest
from support.store_tools import AnyStore, OpenStore, describe, make_rich_tree, new_id

from obuilder.errors import StoreError
from obuilder.types import ROOT, Id
from obuilder_store_overlayfs import OverlayfsStore
from obuilder_store_overlayfs import store as store_module

pytestmark = pytest.mark.anyio

Change = Callable[[Path], object]


@pytest.fixture(params=["ext4", "xfs", "btrfs", "tmpfs"])
def root(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{request.param}_root")
    return found


def opener(location: Path) -> OpenStore:
    def opened() -> AbstractAsyncContextManager[AnyStore]:
        return OverlayfsStore.open(str(location), OverlayfsStore.Config())

    return opened


@pytest.fixture
def open_store(root: Path) -> OpenStore:
    return opener(root / "store")


async def step(store: AnyStore, change: Change, *, base: Id | None = None) -> Id:
    id = new_id()
    async with store.build(id, base=base) as path:
        (path / "rootfs").mkdir(exist_ok=True)
        change(path / "rootfs")
    return id


async def tree(store: AnyStore, id: Id) -> Path:
    saved = await store.result(id)
    assert saved
    return saved / "rootfs"


def nothing(root: Path) -> None:
    assert root.is_dir()


async def seen_later(store: AnyStore, id: Id) -> dict[str, tuple[object, ...]]:
    """What a result shows, which must be what a step sees that is built on it."""
    found = describe(await tree(store, id))
    later = await step(store, nothing, base=id)
    assert describe(await tree(store, later)) == found
    await store.delete(later)
    return found


async def test_what_a_step_removes_stays_removed(open_store: OpenStore) -> None:
    def first(root: Path) -> None:
        make_rich_tree(root / "tree")
        (root / "dir" / "sub").mkdir(parents=True)
        (root / "dir" / "sub" / "file").touch()

    def second(root: Path) -> None:
        for path in sorted((root / "tree").iterdir()):
            if not path.is_dir():
                path.unlink()
        (root / "dir" / "sub" / "file").unlink()
        (root / "dir" / "sub").rmdir()

    async with open_store() as store:
        base = await step(store, first)
        before = describe(await tree(store, base))
        child = await step(store, second, base=base)
        left = await seen_later(store, child)
        shown = {name.partition("/")[0] for name in left}
        assert shown == {".", "dir", "tree"}
        assert "dir/sub" not in left
        kinds = {name: each[0] for name, each in left.items() if name.count("/") == 1}
        assert kinds
        assert all(str(kind).startswith("0o4") for kind in kinds.values())
        assert describe(await tree(store, base)) == before


async def test_a_directory_made_anew_does_not_show_what_it_held(open_store: OpenStore) -> None:
    def first(root: Path) -> None:
        (root / "d" / "old").mkdir(parents=True)
        (root / "file").touch()
        (root / "e").mkdir()

    def anew(root: Path) -> None:
        (root / "d" / "old").rmdir()
        (root / "d").rmdir()
        (root / "d").mkdir()
        (root / "d" / "new").touch()
        (root / "file").unlink()
        (root / "file").mkdir()
        (root / "e").rmdir()
        (root / "e").symlink_to("d")

    def remove(root: Path) -> None:
        (root / "d" / "new").unlink()
        (root / "d").rmdir()

    async with open_store() as store:
        base = await step(store, first)
        child = await step(store, anew, base=base)
        found = await seen_later(store, child)
        assert sorted(found) == [".", "d", "d/new", "e", "file"]
        # Removed in one step and made in another.
        without = await step(store, remove, base=child)
        again = await step(store, lambda root: (root / "d").mkdir(), base=without)
        assert sorted(await seen_later(store, again)) == [".", "d", "e", "file"]


async def test_a_directory_of_an_earlier_step_can_be_renamed(open_store: OpenStore) -> None:
    def first(root: Path) -> None:
        make_rich_tree(root / "tree")
        (root / "top").mkdir()

    def rename(old: str, new: str) -> Change:
        return lambda root: (root / old).rename(root / new)

    async with open_store() as store:
        base = await step(store, first)
        expected = describe(await tree(store, base) / "tree")
        one = await step(store, rename("tree", "moved"), base=base)
        two = await step(store, rename("moved", "top/deeper"), base=one)
        three = await step(store, lambda root: (root / "tree").mkdir(), base=two)
        await seen_later(store, three)
        place = await tree(store, three)
        assert describe(place / "top" / "deeper") == expected
        assert list((place / "tree").iterdir()) == []
        assert not (place / "moved").exists()


async def test_writing_to_one_name_of_a_file_writes_to_all(open_store: OpenStore) -> None:
    def first(root: Path) -> None:
        (root / "dir").mkdir()
        for name in ("a", "p", "s"):
            (root / name).write_text("old")
            (root / "dir" / name).hardlink_to(root / name)
        (root / "link").symlink_to("nowhere")
        os.link(root / "link", root / "dir" / "link", follow_symlinks=False)
        os.chown(root / "s", 1, 2)
        (root / "s").chmod(0o4755)
        os.utime(root / "dir", ns=(7, 7))

    def second(root: Path) -> None:
        (root / "a").write_text("new")
        (root / "p").write_text("new")
        (root / "p").unlink()  # its other name has it
        os.setxattr(root / "dir" / "s", "user.note", b"new")
        os.chown(root / "link", 5, 6, follow_symlinks=False)
        (root / "more").hardlink_to(root / "a")

    async with open_store() as store:
        base = await step(store, first)
        child = await step(store, second, base=base)
        found = await seen_later(store, child)
        place = await tree(store, child)
        assert [(place / name).read_text() for name in ("a", "dir/a", "more")] == ["new"] * 3
        assert len({(place / name).stat().st_ino for name in ("a", "dir/a", "more")}) == 1
        assert (place / "a").stat().st_nlink == 3
        assert (place / "dir" / "p").read_text() == "new"
        assert os.getxattr(place / "s", "user.note") == b"new"
        assert stat.S_IMODE((place / "s").stat().st_mode) == 0o4755
        assert (place / "dir" / "link").lstat().st_uid == 5
        assert (place / "dir").stat().st_mtime_ns == 7
        assert found["s"][4] == {"user.note": b"new"}
        before = await tree(store, base)
        assert [(before / name).read_text() for name in ("a", "dir/a", "p")] == ["old"] * 3


async def test_the_root_directory_keeps_its_looks(open_store: OpenStore) -> None:
    def first(root: Path) -> None:
        os.chown(root, 3, 4)
        root.chmod(0o1711)
        os.setxattr(root, "user.note", b"root")
        os.utime(root, ns=(1, 1_234_567_890_123_456_789))

    async with open_store() as store:
        base = await step(store, first)
        one = await step(store, nothing, base=base)
        two = await step(store, nothing, base=one)
        assert describe(await tree(store, two)) == describe(await tree(store, base))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.timeout(300)
async def test_three_hundred_steps_are_one_tree(root: Path) -> None:
    def change(number: int) -> Change:
        def made(root: Path) -> None:
            (root / f"made-{number}").write_text(str(number))
            with (root / "log").open("a") as log:
                log.write(f"{number}\n")
            with suppress(FileNotFoundError):
                (root / f"made-{number - 7}").unlink()
            (root / "dir").rename(root / "aside")
            (root / "aside").rename(root / "dir")
            (root / "dir" / str(number % 10)).write_text(str(number))

        return made

    async with opener(root / "store")() as store:
        id = await step(store, lambda root: (root / "dir").mkdir())
        for number in range(300):
            id = await step(store, change(number), base=id)
        place = await tree(store, id)
        assert sorted(path.name for path in place.glob("made-*")) == sorted(
            f"made-{number}" for number in range(293, 300)
        )
        assert (place / "log").read_text().split() == [str(number) for number in range(300)]
        assert {path.read_text() for path in (place / "dir").iterdir()} == {
            str(number) for number in range(290, 300)
        }
        # Every one of them can be a base, and be removed, the last first.
        assert len(list((store.root / "result").iterdir())) == 301


async def test_a_tree_of_joined_layers_is_the_same_tree(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MOST_LAYERS", 3)
    async with open_store() as store:
        base = await step(store, lambda root: make_rich_tree(root / "tree"))
        expected = describe(await tree(store, base) / "tree")
        id = base
        for number in range(8):
            id = await step(store, lambda root: (root / "n").touch(), base=id)
            place = await tree(store, id)
            assert describe(place / "tree") == expected, number
            sparse = (place / "tree" / "sparse").stat()
            assert sparse.st_blocks * 512 < sparse.st_size / 2
        layered = [path.parent.name for path in (store.root / "layer").glob("*/tree")]
        assert 4 <= len(layered) < 8
        assert not list((store.root / "layer").glob("*/w*"))


@pytest.mark.parametrize("name", ["x" * 200, "a:b,c\\d" * 20])
async def test_a_store_may_lie_deep_and_have_odd_names_above_it(ext4_root: Path, name: str) -> None:
    deep = ext4_root.joinpath(*[name] * (2000 // len(name)))
    async with opener(deep)() as store:
        id = await step(store, lambda root: (root / "0").touch())
        for number in range(1, 50):
            id = await step(store, lambda root: (root / str(number)).touch(), base=id)  # noqa: B023 - called at once
        assert len(list((await tree(store, id)).iterdir())) == 50


async def test_a_result_that_others_stand_on_is_not_deleted(open_store: OpenStore) -> None:
    async with open_store() as store:
        base = await step(store, lambda root: (root / "base").touch())
        middle = await step(store, lambda root: (root / "middle").touch(), base=base)
        top = await step(store, lambda root: (root / "top").touch(), base=middle)
        for id in (base, middle):
            with pytest.raises(StoreError) as caught:
                await store.delete(id)
            assert caught.value.code == "store.in-use"
        assert sorted(await seen_later(store, top)) == [".", "base", "middle", "top"]
        for id in (top, middle, base):
            await store.delete(id)
            assert await store.result(id) is None
        assert list((store.root / "layer").iterdir()) == []


async def test_a_failed_step_takes_its_layer_away(open_store: OpenStore) -> None:
    def fail(root: Path) -> None:
        (root / "half").mkdir()
        raise OSError(errno.EIO, "no")

    async with open_store() as store:
        base = await step(store, nothing)
        with pytest.raises(OSError, match="no"):
            await step(store, fail, base=base)
        assert [path.name for path in (store.root / "layer").iterdir()] == [base]
        await store.delete(base)


async def test_a_directory_of_a_cache_made_anew_is_empty(open_store: OpenStore) -> None:
    async with open_store() as store:
        async with store.cache("c", user=ROOT) as path:
            (path / "d").mkdir()
            (path / "d" / "old").touch()
        async with store.cache("c", user=ROOT) as path:
            (path / "d" / "old").unlink()
            (path / "d").rmdir()
            (path / "d").mkdir()
        async with store.cache("c", user=ROOT) as path:
            assert list((path / "d").iterdir()) == []


async def test_the_size_added_is_that_of_the_layer(open_store: OpenStore) -> None:
    def write(root: Path) -> None:
        (root / "big").write_bytes(os.urandom(4 << 20))

    async with open_store() as store:
        base = await step(store, write)
        child = new_id()
        async with store.build(child, base=base) as path:
            assert await store.size_added(child) == 0
            (path / "rootfs" / "big").chmod(0o600)  # the layer has all of it now
            (path / "log").write_text("some")
            assert 4 << 20 <= (await store.size_added(child) or 0) < 5 << 20
