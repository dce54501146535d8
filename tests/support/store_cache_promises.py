"""What every store of ours must keep of its promises about caches."""

import stat

import anyio
import pytest
from support.store_tools import ODD_NAMES, BodyFailed, OpenStore, killed_builder

from obuilder.errors import CacheBusy
from obuilder.types import ROOT, LeftoverKind, User

__all__ = ["CachePromises"]


@pytest.mark.anyio
class CachePromises:
    """Give `open_store`, as for `StorePromises`."""

    async def test_the_cache_copy_of_a_killed_user_is_listed_and_never_reused(
        self, open_store: OpenStore, anyio_backend_name: str
    ) -> None:
        async with open_store() as store:
            async with killed_builder(store, "cache", "a/b", backend=anyio_backend_name):
                with pytest.raises(CacheBusy):
                    await store.delete_cache("a/b")
            (leftover,) = await store.leftovers()
            assert leftover.kind is LeftoverKind.CACHE
            async with store.cache("a/b", user=ROOT) as path:
                assert list(path.iterdir()) == []
            await store.discard(leftover)
            assert await store.leftovers() == []
            await store.delete_cache("a/b")

    async def test_a_new_cache_is_empty_and_its_users(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            async with store.cache("c", user=User(uid=1000, gid=1001)) as path:
                info = path.stat()
                assert (info.st_uid, info.st_gid) == (1000, 1001)
                assert stat.S_IMODE(info.st_mode) == 0o755
                assert list(path.iterdir()) == []
                (path / "file").write_text("kept")
            async with store.cache("c", user=ROOT) as path:
                assert (path / "file").read_text() == "kept"
                assert path.stat().st_uid == 1000
            assert await store.caches() == ["c"]

    async def test_the_first_cache_copy_that_is_released_wins(self, open_store: OpenStore) -> None:
        async with open_store() as store, open_store() as second:
            async with store.cache("c", user=ROOT) as loser:
                async with second.cache("c", user=ROOT) as winner:
                    (winner / "file").write_text("winner")
                    assert not (loser / "file").exists()
                (loser / "file").write_text("loser")
            async with store.cache("c", user=ROOT) as path:
                assert (path / "file").read_text() == "winner"
            assert await store.leftovers() == []

    async def test_a_cache_is_released_after_failure_and_cancellation(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:
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

    async def test_a_cache_in_use_is_busy_and_else_deleted(self, open_store: OpenStore) -> None:
        async with open_store() as store, open_store() as second:
            async with store.cache("c", user=ROOT) as path:
                (path / "file").touch()
                with pytest.raises(CacheBusy):
                    await second.delete_cache("c")
            await second.delete_cache("c")
            await second.delete_cache("c")
            assert await store.caches() == []
            async with store.cache("c", user=ROOT) as path:
                assert list(path.iterdir()) == []

    async def test_odd_cache_names_are_safe_and_distinct(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            before = sorted(store.root.iterdir())
            for number, name in enumerate(ODD_NAMES):
                async with store.cache(name, user=ROOT) as path:
                    assert path.parent == store.root / "cache-tmp"
                    assert list(path.iterdir()) == []
                    (path / str(number)).touch()
            for number, name in enumerate(ODD_NAMES):
                async with store.cache(name, user=ROOT) as path:
                    assert [each.name for each in path.iterdir()] == [str(number)]
            assert sorted(await store.caches()) == sorted(ODD_NAMES)
            assert sorted(store.root.iterdir()) == before
            for name in await store.caches():
                await store.delete_cache(name)
            assert await store.caches() == []
