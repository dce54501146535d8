"""Caches: private copies, the first release wins, and what is removed is in nobody's way."""

import json
import os
import shutil
import sys
from pathlib import Path

import anyio
import pytest

from obuilder import durable, named_cache
from obuilder.errors import CacheBusy, StoreError
from obuilder.locks import Locks
from obuilder.named_cache import (
    CacheNaming,
    NamedCaches,
    damaged_records,
    remove_record,
    remove_unfinished,
)
from obuilder.process import call
from obuilder.types import ROOT, LeftoverKind, User


class Directories:
    """The three operations of a store, on plain directories."""

    async def create_cache(self, path: Path, user: User) -> None:
        os.mkdir(path)
        os.chown(path, user.uid, user.gid)

    async def clone_cache(self, source: Path, target: Path) -> None:
        await anyio.lowlevel.checkpoint()
        shutil.copytree(source, target)

    async def remove_cache(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)


class FailingClone(Directories):
    async def clone_cache(self, source: Path, target: Path) -> None:
        os.mkdir(target)
        raise StoreError("the disk is full")


def open_caches(root: Path, store: Directories | None = None, *, prefix: str = "") -> NamedCaches:
    for name in ("cache", "cache-tmp"):
        (root / name).mkdir(exist_ok=True)
    return NamedCaches(
        store or Directories(), root, root / "state", naming=CacheNaming(prefix=prefix)
    )


@pytest.mark.anyio
class TestNamedCaches:
    """On plain directories."""

    async def test_a_release_makes_the_copy_the_newest_version(self, tmp_path: Path) -> None:
        caches = open_caches(tmp_path)
        async with caches.use("c", user=ROOT) as path:
            (path / "file").write_text("1")
            assert not (tmp_path / "cache" / "c").exists()
        assert (tmp_path / "cache" / "c" / "file").read_text() == "1"
        assert list((tmp_path / "cache-tmp").iterdir()) == []
        assert await caches.names() == ["c"]

    async def test_of_many_that_start_together_only_the_first_release_counts(
        self, tmp_path: Path
    ) -> None:
        caches = [open_caches(tmp_path), open_caches(tmp_path)]
        entered, finished = [anyio.Event() for _ in range(10)], []

        async def use(number: int) -> None:
            async with caches[number % 2].use("c", user=ROOT) as path:
                entered[number].set()
                for event in entered:
                    await event.wait()
                (path / str(number)).touch()
                finished.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(use, number)
        (kept,) = (tmp_path / "cache" / "c").iterdir()
        assert int(kept.name) in finished
        assert list((tmp_path / "cache-tmp").iterdir()) == []
        assert os.listdir(tmp_path / "state" / "locks") == []

    async def test_a_copy_from_before_a_deletion_never_wins(self, tmp_path: Path) -> None:
        caches = open_caches(tmp_path)
        async with caches.use("c", user=ROOT):
            pass
        generation = json.loads((tmp_path / "state" / "caches" / "c").read_bytes())["generation"]
        await caches.delete("c")
        async with caches.use("c", user=ROOT):
            pass
        record = json.loads((tmp_path / "state" / "caches" / "c").read_bytes())
        assert int(record["generation"]) > int(generation)

    async def test_a_clone_that_fails_leaves_no_copy(self, tmp_path: Path) -> None:
        async with open_caches(tmp_path).use("c", user=ROOT):
            pass
        caches = open_caches(tmp_path, FailingClone())
        with pytest.raises(StoreError, match="full"):
            async with caches.use("c", user=ROOT):
                pytest.fail("used")
        assert await caches.leftovers() == []
        await caches.delete("c")

    async def test_a_copy_in_use_is_a_leftover_with_the_lock_of_its_user(
        self, tmp_path: Path
    ) -> None:
        caches = open_caches(tmp_path)
        async with caches.use("a/b", user=ROOT) as path:
            (leftover,) = await caches.leftovers()
            assert leftover.kind is LeftoverKind.CACHE
            assert leftover.path == path
            assert leftover.key in os.listdir(tmp_path / "state" / "locks")

    async def test_a_cache_in_use_is_busy(self, tmp_path: Path) -> None:
        caches, others = open_caches(tmp_path), open_caches(tmp_path)
        async with caches.use("c", user=ROOT):
            with pytest.raises(CacheBusy) as caught:
                await others.delete("c")
            assert caught.value.hint
            await others.delete("another")
        await others.delete("c")
        assert await caches.names() == []

    async def test_a_cache_that_obuilder_made_is_taken_over(self, tmp_path: Path) -> None:
        caches = open_caches(tmp_path, prefix="c-")
        (tmp_path / "cache" / "c-a%2fb").mkdir()
        (tmp_path / "cache" / "c-a%2fb" / "old").touch()
        assert await caches.names() == ["a/b"]
        async with caches.use("a/b", user=ROOT) as path:
            assert (path / "old").exists()
            (path / "new").touch()
        assert (tmp_path / "cache" / "c-a%2fb" / "new").exists()

    async def test_a_shortened_name_is_listed_whole_and_deleted(self, tmp_path: Path) -> None:
        caches = open_caches(tmp_path)
        async with caches.use("é" * 200, user=ROOT):
            pass
        assert await caches.names() == ["é" * 200]
        await caches.delete("é" * 200)
        assert await caches.names() == []

    async def test_what_obuilder_named_otherwise_is_listed_and_deleted_but_not_used(
        self, tmp_path: Path
    ) -> None:
        caches = open_caches(tmp_path)
        for name in ("a b", "a%20b", "c" * 220, "other"):
            (tmp_path / "cache" / name).mkdir()
        assert await caches.names() == ["a b", "c" * 220, "other"]
        async with caches.use("c" * 220, user=ROOT):
            pass
        assert await caches.names() == ["a b", "c" * 220, "other"]
        await caches.delete("c" * 220)
        await caches.delete("a b")
        assert [each.name for each in (tmp_path / "cache").iterdir()] == ["other"]

    async def test_without_an_atomic_exchange_the_new_version_still_arrives(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A flag that no kernel knows is refused as one that the file system does not know.
        monkeypatch.setattr(durable, "_RENAME_EXCHANGE", 1 << 20)
        caches = open_caches(tmp_path)
        for number in range(3):
            async with caches.use("c", user=ROOT) as path:
                (path / str(number)).touch()
        assert sorted(os.listdir(tmp_path / "cache" / "c")) == ["0", "1", "2"]
        assert await caches.leftovers() == []

    async def test_a_release_that_fails_is_a_store_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        caches = open_caches(tmp_path)
        monkeypatch.setattr(named_cache, "write_file", full)
        with pytest.raises(StoreError, match="cannot release cache 'c': No space left"):
            async with caches.use("c", user=ROOT):
                pass
        assert await caches.names() == []
        assert await caches.leftovers() == []

    async def test_a_damaged_record_says_what_to_remove(self, tmp_path: Path) -> None:
        caches = open_caches(tmp_path)
        record = tmp_path / "state" / "caches" / "c"
        record.write_text("{")
        with pytest.raises(StoreError, match="damaged") as caught:
            async with caches.use("c", user=ROOT):
                pytest.fail("used")
        assert str(record) in (caught.value.hint or "")
        assert await caches.leftovers() == []


@pytest.mark.anyio
async def test_damaged_records_are_told_and_removed_unless_the_cache_is_in_use(
    tmp_path: Path,
) -> None:
    caches, state = open_caches(tmp_path), tmp_path / "state"
    for name in ("one", "two", "used"):
        async with caches.use(name, user=ROOT) as copy:
            (copy / "kept").write_text(name)
    assert damaged_records(state, {}) == {}
    (state / "caches" / "one").write_bytes(b"")
    (state / "caches" / ".two.12.tmp").write_bytes(b"{")
    (state / "caches" / ".used.34.tmp").write_bytes(b"{")
    async with caches.use("used", user=ROOT):
        assert sorted(damaged_records(state, {})) == [".two.12.tmp", "one"]
        assert not remove_record(state, ".used.34.tmp")
    assert sorted(damaged_records(state, {})) == [".two.12.tmp", ".used.34.tmp", "one"]
    for name in damaged_records(state, {}):
        assert remove_record(state, name)
    assert remove_record(state, "two")  # it is whole, and stays
    assert sorted(os.listdir(state / "caches")) == ["two", "used"]
    assert list(await caches.names()) == ["one", "two", "used"]
    async with caches.use("one", user=ROOT) as copy:
        assert (copy / "kept").read_text() == "one"


_KILLED = """
import os, sys
from pathlib import Path
import anyio
from obuilder.named_cache import NamedCaches
from obuilder.types import ROOT

class Directories:
    async def create_cache(self, path, user): os.mkdir(path)

async def main(root):
    # In the middle of writing a record: it has its bytes, and not yet its name.
    Path.replace = lambda path, target: os.kill(os.getpid(), 9)
    async with NamedCaches(Directories(), root, root / "state").use("c", user=ROOT):
        pass

anyio.run(main, Path(sys.argv[1]))
"""


@pytest.mark.anyio
async def test_a_record_that_a_killed_process_had_begun_is_removed_once_nobody_uses_its_cache(
    tmp_path: Path,
) -> None:
    caches, state = open_caches(tmp_path), tmp_path / "state"
    assert await call([sys.executable, "-c", _KILLED, str(tmp_path)], stderr=2) == -9
    (begun,) = os.listdir(state / "caches")
    (leftover,) = await caches.leftovers()
    assert leftover.path is not None
    await caches.discard(leftover.path)
    async with caches.use("c", user=ROOT):
        remove_unfinished(state)
        assert os.listdir(state / "caches") == [begun]
    remove_unfinished(state)
    assert begun not in os.listdir(state / "caches")
    assert list(await caches.names()) == ["c"]


@pytest.mark.anyio
@pytest.mark.parametrize("in_the_end", [False, True], ids=["in-the-block", "in-the-release"])
async def test_who_is_cancelled_does_not_wait_long_for_a_cache_that_another_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_the_end: bool
) -> None:
    monkeypatch.setattr(named_cache, "RELEASE_S", 0.01)
    caches, begun, ended = open_caches(tmp_path), anyio.Event(), anyio.Event()
    scope, may_release = anyio.CancelScope(), anyio.Event()

    async def work() -> None:
        with scope:
            async with caches.use("c", user=ROOT):
                begun.set()
                await (may_release.wait() if in_the_end else anyio.sleep_forever())
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await begun.wait()
        async with Locks(tmp_path / "state" / "locks").hold("cache-c"):
            may_release.set()
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            with anyio.fail_after(60):
                await ended.wait()
    assert scope.cancelled_caught
    assert list(await caches.names()) == []
    assert await caches.leftovers() == []


@pytest.mark.anyio
async def test_who_is_cancelled_keeps_what_it_can_release_soon(tmp_path: Path) -> None:
    caches, begun, may_release = open_caches(tmp_path), anyio.Event(), anyio.Event()
    kept: list[bool | None] = []

    async def work() -> None:
        try:
            async with caches.use("c", user=ROOT) as copy:
                begun.set()
                await may_release.wait()
        finally:
            kept.append(caches.was_kept(copy))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await begun.wait()
        async with Locks(tmp_path / "state" / "locks").hold("cache-c"):
            may_release.set()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
    assert kept == [True]
    assert list(await caches.names()) == ["c"]


class Stalling(Directories):
    """Begins to remove, and goes on when it may."""

    def __init__(self) -> None:
        self.begun, self.may_end = anyio.Event(), anyio.Event()

    async def remove_cache(self, path: Path) -> None:
        if path.exists():
            self.begun.set()
            await self.may_end.wait()
        await super().remove_cache(path)


@pytest.mark.anyio
@pytest.mark.parametrize("what", ["a-copy", "the-cache"])
async def test_what_is_being_removed_is_locked_and_the_cache_is_not(
    tmp_path: Path, what: str
) -> None:
    async with open_caches(tmp_path).use("c", user=ROOT) as copy:
        (copy / "old").touch()
    store = Stalling()
    caches, locks = open_caches(tmp_path, store), Locks(tmp_path / "state" / "locks")
    left = tmp_path / "cache-tmp" / "0123456789ab-c"

    async def discard() -> None:
        left.mkdir()
        with locks.try_hold(f"copy-{left.name}"):
            await caches.discard(left)

    async def delete() -> None:
        await caches.delete("c")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(discard if what == "a-copy" else delete)
        await store.begun.wait()
        (leftover,) = await caches.leftovers()
        try:
            with locks.try_hold(leftover.key) as free:
                assert not free
            with anyio.fail_after(60):
                async with open_caches(tmp_path).use("c", user=ROOT) as copy:
                    assert os.listdir(copy) == (["old"] if what == "a-copy" else [])
                    (copy / "new").touch()
        finally:
            store.may_end.set()
    assert await caches.leftovers() == []
    async with caches.use("c", user=ROOT) as copy:
        assert "new" in os.listdir(copy)


@pytest.mark.anyio
async def test_a_copy_that_cannot_be_removed_fails_no_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Resisting(Directories):
        async def remove_cache(self, path: Path) -> None:
            if path.exists():
                raise StoreError(f"{path} resists")

    for _ in range(2):
        async with open_caches(tmp_path, Resisting()).use("c", user=ROOT):
            pass
    (leftover,) = await open_caches(tmp_path).leftovers()
    assert f"{leftover.path} resists" in caplog.text
