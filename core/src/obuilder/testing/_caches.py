"""Promises of stores about caches: private copies, the first release wins."""

import stat

import anyio
import pytest

from obuilder.errors import CacheBusy
from obuilder.testing._tools import LIMIT_S, ODD_NAMES, Bench, BodyFailed
from obuilder.testing._trees import LocalTrees, change_tree, describe_tree, make_rich_tree
from obuilder.types import ROOT, User

__all__ = ["CachePromises"]


class CachePromises:
    """See StoreContract."""

    async def test_a_new_cache_is_empty_and_its_users(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            async with store.cache("c", user=User(uid=1000, gid=1001)) as path:
                info = path.stat()
                assert (info.st_uid, info.st_gid) == (1000, 1001)
                assert stat.S_IMODE(info.st_mode) == 0o755
                assert list(path.iterdir()) == []
                (path / "file").write_text("kept")
            async with store.cache("c", user=ROOT) as path:
                assert (path / "file").read_text() == "kept"
                assert path.stat().st_uid == 1000
            assert list(await store.caches()) == ["c"]

    async def test_the_first_cache_copy_that_is_released_wins(self, bench: Bench) -> None:
        async with bench.open_store() as store, bench.open_store() as second:
            async with store.cache("c", user=ROOT) as loser:
                async with second.cache("c", user=ROOT) as winner:
                    (winner / "file").write_text("winner")
                    assert not (loser / "file").exists()
                assert second.cache_was_kept(winner) in {True, None}
                (loser / "file").write_text("loser")
            assert store.cache_was_kept(loser) in {False, None}
            async with store.cache("c", user=ROOT) as path:
                assert (path / "file").read_text() == "winner"
            assert list(await store.leftovers()) == []

    async def test_the_first_release_wins_against_another_process(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            async with store.cache("c", user=ROOT) as path:
                (path / "file").write_text("old")
            async with store.cache("c", user=ROOT) as loser:
                async with bench.other_process(store, "release", "c", needed="winner") as other:
                    assert await other.go_on_for(LIMIT_S)
                (loser / "file").write_text("loser")
            async with store.cache("c", user=ROOT) as path:
                assert (path / "file").read_text() == "winner"
            assert list(await store.leftovers()) == []

    async def test_a_cache_copy_is_private_also_for_writes_in_place(self, bench: Bench) -> None:
        async with bench.open_store() as store, bench.open_store() as second:
            async with store.cache("c", user=ROOT) as path:
                make_rich_tree(path / "tree")
                before = describe_tree(path / "tree")
            async with (
                store.cache("c", user=ROOT) as loser,
                second.cache("c", user=ROOT) as winner,
            ):
                await LocalTrees().spoil(loser / "tree")
                assert describe_tree(winner / "tree") == before
            async with store.cache("c", user=ROOT) as path:
                assert describe_tree(path / "tree") == before

    async def test_a_cache_keeps_everything_that_is_in_it(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            async with store.cache("c", user=User(uid=1000, gid=1001)) as path:
                make_rich_tree(path / "tree")
                before = describe_tree(path / "tree")
            for _ in range(2):
                async with store.cache("c", user=ROOT) as path:
                    assert describe_tree(path / "tree") == before
            async with store.cache("c", user=ROOT) as path:
                change_tree(path / "tree")
                changed = describe_tree(path / "tree")
            async with store.cache("c", user=ROOT) as path:
                assert describe_tree(path / "tree") == changed

    async def test_a_cache_is_released_after_failure_and_cancellation(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            with pytest.raises(BodyFailed):  # noqa: PT012 - what fails is the block of a cache
                async with store.cache("c", user=ROOT) as path:
                    (path / "failed").touch()
                    raise BodyFailed
            with anyio.CancelScope() as scope:
                async with store.cache("c", user=ROOT) as path:
                    (path / "cancelled").touch()
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
            async with store.cache("c", user=ROOT) as path:
                assert sorted(each.name for each in path.iterdir()) == ["cancelled", "failed"]
            assert len(await store.leftovers()) == 0

    async def test_a_cache_in_use_is_busy_and_else_deleted(self, bench: Bench) -> None:
        async with bench.open_store() as store, bench.open_store() as second:
            async with store.cache("c", user=ROOT) as path:
                (path / "file").touch()
                with pytest.raises(CacheBusy):
                    await second.delete_cache("c")
            await second.delete_cache("c")
            await second.delete_cache("c")
            assert list(await store.caches()) == []
            async with store.cache("c", user=ROOT) as path:
                assert list(path.iterdir()) == []

    async def test_a_cache_in_use_by_another_process_is_busy(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            async with store.cache("c", user=ROOT) as path:
                (path / "file").write_text("kept")
            async with bench.other_process(store, "cache", "c"):
                with pytest.raises(CacheBusy):
                    await store.delete_cache("c")
            async with store.cache("c", user=ROOT) as path:
                assert (path / "file").read_text() == "kept"
            for leftover in await store.leftovers():
                await store.discard(leftover)
            await store.delete_cache("c")
            assert list(await store.caches()) == []

    async def test_odd_cache_names_are_safe_and_distinct(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            for number, name in enumerate(ODD_NAMES):
                async with store.cache(name, user=ROOT) as path:
                    assert list(path.iterdir()) == []
                    (path / str(number)).touch()
            for number, name in enumerate(ODD_NAMES):
                async with store.cache(name, user=ROOT) as path:
                    assert [each.name for each in path.iterdir()] == [str(number)]
            assert sorted(await store.caches()) == sorted(ODD_NAMES)
            for name in await store.caches():
                await store.delete_cache(name)
            assert list(await store.caches()) == []
