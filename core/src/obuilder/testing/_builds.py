"""Promises of stores about results: made, cloned, kept, deleted."""

import stat
from pathlib import Path

import anyio
import pytest

from obuilder.errors import StoreError
from obuilder.testing._form import check_form
from obuilder.testing._tools import AnyStore, Bench, descriptors, new_id
from obuilder.types import ROOT

__all__ = ["BuildPromises"]


class BuildPromises:
    """See StoreContract."""

    async def test_the_class_says_its_interface_and_its_options(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            check_form(type(store))

    async def test_a_build_is_saved_with_its_log(self, bench: Bench) -> None:
        id = new_id()
        async with bench.open_store() as store:
            assert await store.result(id) is None
            async with store.build(id) as path:
                assert list(path.iterdir()) == []
                assert stat.S_IMODE(path.stat().st_mode) == 0o755
                assert await store.log_file(id) == path / "log"
                (path / "log").write_text("said")
                assert await store.result(id) is None
            saved = await store.result(id)
            assert saved is not None
            assert await store.log_file(id) == saved / "log"
            assert (saved / "log").read_text() == "said"
            assert list(await store.leftovers()) == []
        async with bench.open_store() as store:
            assert await store.result(id) == saved

    async def test_a_failed_build_leaves_nothing_and_can_be_repeated(self, bench: Bench) -> None:
        async def leave_half(path: Path) -> None:
            (path / "half").mkdir(mode=0o500)

        id = new_id()
        async with bench.open_store() as store:
            path = await bench.failing_build(store, id, leave_half)
            assert not path.exists()
            assert await store.result(id) is None
            assert list(await store.leftovers()) == []
            async with store.build(id) as path:
                assert list(path.iterdir()) == []
            assert await store.result(id) is not None

    async def test_a_cancelled_build_leaves_nothing(self, bench: Bench) -> None:
        id = new_id()
        async with bench.open_store() as store:
            with anyio.CancelScope() as scope:
                async with store.build(id) as path:
                    (path / "half").write_text("half")
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            assert not path.exists()
            assert await store.result(id) is None
            assert list(await store.leftovers()) == []

    async def test_a_cancel_after_the_block_ended_finds_the_result_saved(
        self, bench: Bench
    ) -> None:
        id = new_id()
        async with bench.open_store() as store:
            with anyio.CancelScope() as scope:
                async with store.build(id):
                    scope.cancel()
            assert not scope.cancelled_caught
            assert await store.result(id) is not None
            assert list(await store.leftovers()) == []

    async def test_a_clone_that_is_cancelled_leaves_nothing(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            base = new_id()
            async with store.build(base) as path:
                await bench.trees.make_rich(path / "rootfs")
            # From before its first system call to after its last one.
            for delay_s in (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128):
                id = new_id()
                with anyio.move_on_after(delay_s):
                    async with store.build(id, base=base):
                        await anyio.sleep_forever()
                assert await store.result(id) is None
                assert list(await store.leftovers()) == [], f"cancelled after {delay_s} s"

    async def test_a_missing_base_is_a_store_error(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            with pytest.raises(StoreError):
                async with store.build(new_id(), base=new_id()):
                    pytest.fail("built on nothing")
            assert list(await store.leftovers()) == []

    async def test_neither_base_nor_clone_sees_the_others_changes(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            base = await bench.built(store, "base")
            child = await bench.built(store, "child", base=base)
            grandchild = await bench.built(store, "grandchild", base=child)
            found = [await bench.content(store, id) for id in (base, child, grandchild)]
            assert found == ["base", "child", "grandchild"]
            await store.delete(grandchild)
            await store.delete(child)
            assert await bench.content(store, base) == "base"

    async def test_a_result_cannot_be_changed_by_a_later_step(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            base = new_id()
            async with store.build(base) as path:
                await bench.trees.make_rich(path / "rootfs")
                before = await bench.trees.describe(path / "rootfs")
            child = new_id()
            async with store.build(child, base=base) as path:
                # In place, as `echo >>FILE` and `chmod` do it: not by a new file.
                await bench.trees.spoil(path / "rootfs")
                assert await bench.trees.describe(path / "rootfs") != before
            saved = await store.result(base)
            assert saved is not None
            assert await bench.trees.describe(saved / "rootfs") == before

    async def test_everything_in_a_tree_survives_three_generations(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            id = new_id()
            async with store.build(id) as path:
                await bench.trees.make_rich(path / "rootfs")
                expected = await bench.trees.describe(path / "rootfs")
            for _ in range(3):
                child = new_id()
                async with store.build(child, base=id) as path:
                    assert await bench.trees.describe(path / "rootfs") == expected
                id = child
            saved = await store.result(id)
            assert saved is not None
            assert await bench.trees.describe(saved / "rootfs") == expected

    async def test_what_a_step_changes_is_kept_and_is_not_in_its_base(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            base, child, grandchild = new_id(), new_id(), new_id()
            async with store.build(base) as path:
                await bench.trees.make_rich(path / "rootfs")
                before = await bench.trees.describe(path / "rootfs")
            async with store.build(child, base=base) as path:
                await bench.trees.change(path / "rootfs")
                changed = await bench.trees.describe(path / "rootfs")
                assert changed != before
            async with store.build(grandchild, base=child) as path:
                assert await bench.trees.describe(path / "rootfs") == changed
            for id, expected in ((base, before), (child, changed), (grandchild, changed)):
                saved = await store.result(id)
                assert saved is not None
                assert await bench.trees.describe(saved / "rootfs") == expected

    async def test_a_clone_brings_all_files_of_its_base_along(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            base = await bench.built(store, "base")
            async with store.build(new_id(), base=base) as path:
                assert sorted(each.name for each in path.iterdir()) == ["log", "rootfs"]
                assert (path / "log").read_text() == "log of base"

    async def test_delete_removes_a_result_and_only_once(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            id, kept = await bench.built(store), await bench.built(store)
            await store.delete(id)
            await store.delete(id)
            assert await store.result(id) is None
            assert await store.result(kept) is not None
            assert list(await store.leftovers()) == []
            async with store.build(id) as path:
                assert list(path.iterdir()) == []

    async def test_results_are_those_that_are_saved_and_no_others(self, bench: Bench) -> None:
        async with bench.open_store() as store, bench.open_store() as second:
            kept, deleted = await bench.built(store), await bench.built(store)
            child = await bench.built(store, base=kept)
            await store.delete(deleted)
            await bench.failing_build(store, new_id())
            async with bench.other_process(store, "build", new_id()):
                pass
            async with store.build(new_id(), base=kept):
                listed = [await each.results() for each in (store, second)]
            # A store may not know.
            assert [sorted(ids) for ids in listed if ids] in ([], [sorted((kept, child))] * 2)

    async def test_deleting_the_middle_of_a_chain_is_refused_or_leaves_descendants_whole(
        self, bench: Bench, can_delete_middle: bool
    ) -> None:
        async with bench.open_store() as store:
            base = await bench.built(store, "base")
            middle = await bench.built(store, "middle", base=base)
            last = await bench.built(store, "last", base=middle)
            if can_delete_middle:
                await store.delete(middle)
                assert await store.result(middle) is None
            else:
                with pytest.raises(StoreError):
                    await store.delete(middle)
                assert await bench.content(store, middle) == "middle"
            assert await bench.content(store, last) == "last"
            assert await bench.content(store, base) == "base"

    async def test_only_leftovers_can_be_discarded(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            id = await bench.built(store)
            async with store.build(new_id()):
                (running,) = await store.leftovers()
            wrong = type(running)(kind=running.kind, key=id, path=await store.result(id))
            with pytest.raises(StoreError):
                await store.discard(wrong)
            assert await store.result(id) is not None

    async def test_use_leaks_no_descriptors(self, bench: Bench) -> None:
        async def use(store: AnyStore) -> None:
            id = await bench.built(store)
            await bench.failing_build(store, new_id())
            async with store.cache("c", user=ROOT):
                pass
            await store.delete(id)
            await store.df()

        async with bench.open_store() as store:
            await use(store)
            before = descriptors()
            for _ in range(3):
                await use(store)
            assert descriptors() == before

    async def test_a_state_directory_is_there_for_the_core(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            (store.state_dir / "db").mkdir(exist_ok=True)
            (store.state_dir / "db" / "kept").write_text("kept")
        async with bench.open_store() as store:
            assert (store.state_dir / "db" / "kept").read_text() == "kept"
