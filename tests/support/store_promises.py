"""What every store of ours must keep of the promises in `obuilder.interfaces.Store`."""

import os
import stat
from pathlib import Path

import anyio
import pytest
from support.store_cache_promises import CachePromises
from support.store_tools import (
    AnyStore,
    OpenStore,
    built,
    describe,
    descriptors,
    failing_build,
    killed_builder,
    make_rich_tree,
    new_id,
)

from obuilder.errors import ConfigError, StoreError
from obuilder.types import ROOT, LeftoverKind

__all__ = ["StorePromises"]


@pytest.mark.anyio
class StorePromises(CachePromises):
    """Give `open_store` (a factory, each call a new object on one location)."""

    async def test_a_build_is_saved_with_its_log(self, open_store: OpenStore) -> None:
        id = new_id()
        async with open_store() as store:
            assert await store.result(id) is None
            async with store.build(id) as path:
                assert list(path.iterdir()) == []
                assert stat.S_IMODE(path.stat().st_mode) == 0o755
                assert await store.log_file(id) == path / "log"
                (path / "log").write_text("said")
                assert await store.result(id) is None
            saved = await store.result(id)
            assert saved == store.root / "result" / id
            assert await store.log_file(id) == saved / "log"
            assert (saved / "log").read_text() == "said"
            assert await store.leftovers() == []
        async with open_store() as store:
            assert await store.result(id) == saved

    async def test_a_failed_build_leaves_nothing_and_can_be_repeated(
        self, open_store: OpenStore
    ) -> None:
        async def leave_half(path: Path) -> None:
            (path / "half").mkdir(mode=0o500)

        id = new_id()
        async with open_store() as store:
            path = await failing_build(store, id, leave_half)
            assert path.name == id
            assert not path.exists()
            assert await store.result(id) is None
            assert await store.leftovers() == []
            async with store.build(id) as path:
                assert list(path.iterdir()) == []
            assert await store.result(id) is not None

    async def test_a_cancelled_build_leaves_nothing(self, open_store: OpenStore) -> None:
        id = new_id()
        async with open_store() as store:
            with anyio.CancelScope() as scope:
                async with store.build(id) as path:
                    (path / "half").write_text("half")
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            assert not path.exists()
            assert await store.result(id) is None

    async def test_a_cancel_after_the_block_ended_finds_the_result_saved(
        self, open_store: OpenStore
    ) -> None:
        id = new_id()
        async with open_store() as store:
            with anyio.CancelScope() as scope:
                async with store.build(id):
                    scope.cancel()
            assert not scope.cancelled_caught
            assert await store.result(id) is not None
            assert await store.leftovers() == []

    async def test_a_clone_that_is_cancelled_leaves_nothing(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            base = await built(store)
            with anyio.CancelScope() as scope:
                scope.cancel()
                async with store.build(new_id(), base=base):
                    pytest.fail("a cancelled clone gave a directory")
            assert await store.leftovers() == []

    async def test_a_missing_base_is_a_store_error(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            with pytest.raises(StoreError, match="not in the store"):
                async with store.build(new_id(), base=new_id()):
                    pytest.fail("built on nothing")
            assert await store.leftovers() == []

    async def test_a_commit_that_fails_discards(self, open_store: OpenStore) -> None:
        id = new_id()
        async with open_store() as store:
            with pytest.raises(StoreError):
                async with store.build(id) as path:
                    # Whatever stands in the way of the rename.
                    (store.root / "result" / id).write_text("in the way")
            assert not path.exists()
            assert await store.result(id) is None

    async def test_neither_base_nor_clone_sees_the_others_changes(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:
            base = await built(store, "base")
            child = await built(store, "child", base=base)
            other = new_id()
            async with store.build(other, base=base) as path:
                (path / "rootfs" / "content").unlink()
            contents = []
            for id in (base, child):
                saved = await store.result(id)
                assert saved
                contents.append((saved / "rootfs" / "content").read_text())
            assert contents == ["base", "child"]
            await store.delete(other)
            await store.delete(child)
            saved = await store.result(base)
            assert saved
            assert (saved / "rootfs" / "content").read_text() == "base"

    async def test_ten_builds_at_once_on_one_base(self, open_store: OpenStore) -> None:
        async with open_store() as store, open_store() as second:
            base = await built(store, "base")
            ids = [new_id() for _ in range(10)]
            entered = [anyio.Event() for _ in ids]

            async def build(number: int) -> None:
                backend = store if number % 2 else second
                async with backend.build(ids[number], base=base) as path:
                    entered[number].set()
                    for event in entered:
                        await event.wait()
                    assert (path / "rootfs" / "content").read_text() == "base"
                    (path / "rootfs" / "content").write_text(str(number))

            async with anyio.create_task_group() as tasks:
                for number in range(10):
                    tasks.start_soon(build, number)
            for number, id in enumerate(ids):
                saved = await store.result(id)
                assert saved
                assert (saved / "rootfs" / "content").read_text() == str(number)

    async def test_everything_in_a_tree_survives_three_generations(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:
            id = new_id()
            async with store.build(id) as path:
                make_rich_tree(path / "rootfs")
                expected = describe(path / "rootfs")
            for _ in range(3):
                child = new_id()
                async with store.build(child, base=id) as path:
                    assert describe(path / "rootfs") == expected
                id = child
            saved = await store.result(id)
            assert saved
            assert describe(saved / "rootfs") == expected
            sparse = (saved / "rootfs" / "sparse").stat()
            assert sparse.st_blocks * 512 < sparse.st_size / 2

    async def test_a_deep_tree_is_cloned_and_removed(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            id, names = new_id(), ["d" * 200] * 18
            async with store.build(id) as path:
                (path / "rootfs").mkdir()
                directory = os.open(path / "rootfs", os.O_RDONLY)
                for name in names:
                    os.mkdir(name, dir_fd=directory)
                    below = os.open(name, os.O_RDONLY, dir_fd=directory)
                    os.close(directory)
                    directory = below
                os.close(directory)
            child = await built(store, base=id)
            await store.delete(child)
            await store.delete(id)
            assert await store.result(id) is None

    async def test_delete_removes_a_result_and_only_once(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            id, kept = await built(store), await built(store)
            await store.delete(id)
            await store.delete(id)
            assert await store.result(id) is None
            assert await store.result(kept) is not None
            assert await store.leftovers() == []
            async with store.build(id) as path:
                assert list(path.iterdir()) == []

    async def test_what_a_killed_builder_left_is_listed_and_discarded(
        self, open_store: OpenStore, anyio_backend_name: str
    ) -> None:
        id = new_id()
        async with (
            open_store() as store,
            killed_builder(store, "build", id, backend=anyio_backend_name),
            open_store() as second,
        ):
            # Opening does not touch what a live builder uses.
            assert [found.key for found in await second.leftovers()] == [id]
            assert (store.root / "result-tmp" / id / "half").exists()
        async with open_store() as store:
            assert await store.result(id) is None
            (leftover,) = await store.leftovers()
            assert leftover.kind is LeftoverKind.RESULT
            await store.discard(leftover)
            await store.discard(leftover)
            assert await store.leftovers() == []

    async def test_a_build_after_a_kill_starts_afresh(
        self, open_store: OpenStore, anyio_backend_name: str
    ) -> None:
        id = new_id()
        async with open_store() as store:
            base = await built(store)
            async with killed_builder(store, "build", id, backend=anyio_backend_name):
                pass
            async with store.build(id, base=base) as path:
                assert not (path / "half").exists()
            saved = await store.result(id)
            assert saved
            assert sorted(each.name for each in saved.iterdir()) == ["log", "rootfs"]

    async def test_only_leftovers_can_be_discarded(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            id = await built(store)
            async with store.build(new_id()):
                (running,) = await store.leftovers()
            wrong = type(running)(kind=running.kind, key=id, path=await store.result(id))
            with pytest.raises(StoreError):
                await store.discard(wrong)
            assert await store.result(id) is not None

    async def test_df_is_a_percentage(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            assert 0 < await store.df() < 100

    async def test_deleted_space_shows_once_deletes_are_complete(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:
            id = new_id()
            async with store.build(id) as path:
                (path / "big").write_bytes(os.urandom(32 << 20))
            saved = await store.result(id)
            assert saved
            descriptor = os.open(saved / "big", os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            await store.delete(id)
            await store.complete_deletes()
            assert 0 < await store.df() <= 100

    async def test_size_added_counts_what_the_step_wrote(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            base = new_id()
            async with store.build(base) as path:
                (path / "base").write_bytes(os.urandom(8 << 20))
                assert 8 << 20 <= (await store.size_added(base) or 0) < 9 << 20
            child = new_id()
            async with store.build(child, base=base) as path:
                assert await store.size_added(child) == 0
                (path / "new").write_bytes(os.urandom(1 << 20))
                assert 1 << 20 <= (await store.size_added(child) or 0) < 2 << 20

    async def test_use_leaks_no_descriptors(self, open_store: OpenStore) -> None:
        async def use(store: AnyStore) -> None:
            id = await built(store)
            await failing_build(store, new_id())
            async with store.cache("c", user=ROOT):
                pass
            await store.delete(id)
            await store.df()

        async with open_store() as store:
            await use(store)
            before = descriptors()
            for _ in range(3):
                await use(store)
            assert descriptors() == before

    async def test_a_state_directory_is_there_for_the_core(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            assert store.state_dir == store.root / "state"
            (store.state_dir / "db").mkdir()

    async def test_a_relative_location_is_refused(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            backend = type(store)
        with pytest.raises(ConfigError, match="absolute") as caught:
            async with backend.open("some/where", backend.Config()):
                pytest.fail("opened")
        assert caught.value.hint
        assert caught.value.code == "store.location"

    async def test_a_location_that_is_a_file_is_refused(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            backend = type(store)
            file = store.root / "file"
            file.touch()
        for location in (file, file / "below"):
            with pytest.raises(ConfigError) as caught:
                async with backend.open(str(location), backend.Config()):
                    pytest.fail("opened")
            assert caught.value.hint
            assert caught.value.code == "store.location"

    async def test_a_missing_program_is_refused_with_the_package(
        self, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(ConfigError, match="not in PATH") as caught:
            async with open_store():
                pytest.fail("opened")
        assert "apt-get install" in (caught.value.hint or "")

    async def test_a_location_is_made_with_its_parents(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            backend, below = type(store), store.root / "some" / "where"
        async with backend.open(str(below), backend.Config()) as store:
            await built(store)
