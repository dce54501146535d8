"""Promises of stores about processes: two at once, and one that is killed at any point."""

from pathlib import Path

import anyio
import pytest

from obuilder.testing._tools import LIMIT_S, Bench, new_id
from obuilder.types import ROOT, LeftoverKind

__all__ = ["CrashPromises"]

# From before the first system call to after the last one, on a slow machine too.
DELAYS_S = (0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.05, 0.1, 0.2, 0.5, 1, LIMIT_S)


class CrashPromises:
    """See StoreContract."""

    async def test_opening_leaves_alone_what_another_process_uses(self, bench: Bench) -> None:
        id = new_id()
        async with bench.open_store() as store, bench.other_process(store, "build", id):
            async with bench.open_store() as second:
                assert [found.key for found in await second.leftovers()] == [id]
            async with bench.open_store() as third:
                assert [found.key for found in await third.leftovers()] == [id]

    async def test_what_a_killed_builder_left_is_listed_and_can_be_discarded(
        self, bench: Bench
    ) -> None:
        id = new_id()
        async with bench.open_store() as store, bench.other_process(store, "build", id):
            pass
        async with bench.open_store() as store:
            assert await store.result(id) is None
            async with bench.lock(store, id):
                (leftover,) = await store.leftovers()
                assert (leftover.kind, leftover.key) == (LeftoverKind.RESULT, id)
                await store.discard(leftover)
                await store.discard(leftover)
                assert list(await store.leftovers()) == []

    async def test_a_build_after_a_kill_starts_afresh(self, bench: Bench) -> None:
        id = new_id()
        async with bench.open_store() as store:
            base = await bench.built(store, "base")
            async with bench.other_process(store, "build", id, base=base):
                pass
            async with bench.lock(store, id), store.build(id, base=base) as path:
                assert not (path / "half").exists()
                assert await bench.trees.read(path / "rootfs") == "base"
            assert list(await store.leftovers()) == []

    @pytest.mark.parametrize("point", ["clone", "publish"])
    async def test_a_builder_killed_at_any_moment_leaves_all_or_nothing(
        self, bench: Bench, point: str
    ) -> None:
        async with bench.open_store() as store:
            base = await bench.built(store, "base")
            for delay_s in DELAYS_S:
                id = new_id()
                async with bench.other_process(store, point, id, base=base) as other:
                    ended = await other.go_on_for(delay_s)
                async with bench.open_store() as second, bench.lock(second, id):
                    for leftover in await second.leftovers():
                        assert leftover.key == id
                        await second.discard(leftover)
                    saved = await second.result(id)
                    if saved is None:
                        assert not ended, "a build that ended is not there"
                        async with second.build(id, base=base) as path:
                            assert not (path / "half").exists()
                    else:
                        assert (saved / "half").read_text() == "half"
                    assert await bench.content(second, id) == "base"
                    await second.delete(id)
                    assert list(await second.leftovers()) == []

    async def test_a_delete_that_is_killed_leaves_all_or_nothing(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            base = await bench.built(store, "base")
            for delay_s in DELAYS_S:
                id = await bench.built(store, "child", base=base)
                async with bench.other_process(store, "delete", id) as other:
                    await other.go_on_for(delay_s)
                async with bench.open_store() as second, bench.lock(second, id):
                    if await second.result(id) is not None:
                        assert await bench.content(second, id) == "child"
                    await second.delete(id)
                    for leftover in await second.leftovers():
                        await second.discard(leftover)
                    assert await second.result(id) is None
                    assert list(await second.leftovers()) == []
            assert await bench.content(store, base) == "base"

    async def test_the_cache_copy_of_a_killed_user_is_listed_and_never_reused(
        self, bench: Bench
    ) -> None:
        async with bench.open_store() as store:
            async with bench.other_process(store, "cache", "a/b"):
                pass
            (leftover,) = await store.leftovers()
            assert leftover.kind is LeftoverKind.CACHE
            async with store.cache("a/b", user=ROOT) as path:
                assert list(path.iterdir()) == []
            await store.discard(leftover)
            assert list(await store.leftovers()) == []
            await store.delete_cache("a/b")

    async def test_a_release_that_is_killed_leaves_the_old_version_or_the_new(
        self, bench: Bench
    ) -> None:
        async with bench.open_store() as store:
            async with store.cache("c", user=ROOT) as path:
                for number in range(20):
                    (path / str(number)).mkdir()
                    (path / str(number) / "file").write_text("first")
                old = _texts(path)
            for delay_s in DELAYS_S:
                text = f"after {delay_s} s"
                new = dict.fromkeys((*old, "half"), text)
                async with bench.other_process(store, "release", "c", needed=text) as other:
                    ended = await other.go_on_for(delay_s)
                async with bench.open_store() as second:
                    for leftover in await second.leftovers():
                        async with bench.lock(second, leftover.key):
                            await second.discard(leftover)
                    async with second.cache("c", user=ROOT) as path:
                        found = _texts(path)
                    assert found == new or (found == old and not ended), delay_s
                    assert list(await second.caches()) == ["c"]
                    assert list(await second.leftovers()) == []
                old = found

    async def test_two_objects_on_one_store_see_each_others_results(self, bench: Bench) -> None:
        async with bench.open_store() as store, bench.open_store() as second:
            id = await bench.built(store, "first")
            assert await bench.content(second, id) == "first"
            child = await bench.built(second, "second", base=id)
            assert await bench.content(store, child) == "second"
            await second.delete(child)
            assert await store.result(child) is None

    async def test_ten_builds_at_once_on_one_base(self, bench: Bench) -> None:
        async with bench.open_store() as store, bench.open_store() as second:
            base = await bench.built(store, "base")
            ids = [new_id() for _ in range(10)]
            entered = [anyio.Event() for _ in ids]

            async def build(number: int) -> None:
                backend = store if number % 2 else second
                async with backend.build(ids[number], base=base) as path:
                    entered[number].set()
                    for event in entered:
                        await event.wait()
                    assert await bench.trees.read(path / "rootfs") == "base"
                    await bench.trees.write(path / "rootfs", str(number))

            with anyio.fail_after(LIMIT_S):
                async with anyio.create_task_group() as tasks:
                    for number in range(10):
                        tasks.start_soon(build, number)
            for number, id in enumerate(ids):
                assert await bench.content(store, id) == str(number)


def _texts(cache: Path) -> dict[str, str]:
    files = (path for path in cache.rglob("*") if path.is_file())
    return {str(path.relative_to(cache)): path.read_text() for path in files}
