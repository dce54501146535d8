"""Stores with one fault each in their caches."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import ClassVar

from support.broken_stores import BrokenStore, many_programs

from obuilder.directory_store import run_tool
from obuilder.locks import Locks
from obuilder.named_cache import CacheNaming, CacheOperations, NamedCaches
from obuilder.types import User

__all__ = ["BROKEN_CACHES"]


class SharesItsCaches(BrokenStore):
    CAUGHT_BY = "the_first_cache_copy_that_is_released_wins"

    async def clone_tree(self, source: Path, target: Path) -> None:
        await super().clone_tree(source, target)

    @asynccontextmanager
    async def cache(self, name: str, *, user: User) -> AsyncIterator[Path]:
        path = self.root / "cache" / name
        path.mkdir(exist_ok=True)
        os.chown(path, user.uid, user.gid)
        yield path


class LosesACacheToAFailure(BrokenStore):
    CAUGHT_BY = "a_cache_is_released_after_failure_and_cancellation"

    @asynccontextmanager
    async def cache(self, name: str, *, user: User) -> AsyncIterator[Path]:
        async with super().cache(name, user=user) as path:
            try:
                yield path
            except BaseException:
                for entry in path.iterdir():
                    entry.unlink()
                raise


class GivesCachesToRoot(BrokenStore):
    CAUGHT_BY = "a_new_cache_is_empty_and_its_users"

    async def create_cache(self, path: Path, user: User) -> None:
        del user
        await self.create_tree(path)


class DeletesBusyCaches(BrokenStore):
    CAUGHT_BY = "a_cache_in_use_is_busy_and_else_deleted"

    async def delete_cache(self, name: str) -> None:
        shutil.rmtree(self.root / "cache" / name, ignore_errors=True)


class MixesCacheNames(BrokenStore):
    CAUGHT_BY = "odd_cache_names_are_safe_and_distinct"

    def cache(self, name: str, *, user: User) -> AbstractAsyncContextManager[Path]:
        return super().cache(name.replace("/", "_").strip(".") or "_", user=user)


class ReusesCacheCopies(BrokenStore):
    CAUGHT_BY = "the_cache_copy_of_a_killed_user_is_listed_and_never_reused"

    @asynccontextmanager
    async def cache(self, name: str, *, user: User) -> AsyncIterator[Path]:
        async with super().cache(name, user=user) as path:
            for old in path.parent.iterdir():
                if old != path:
                    shutil.copytree(old, path, dirs_exist_ok=True)
            yield path


class LinksItsCaches(BrokenStore):
    CAUGHT_BY = "a_cache_copy_is_private_also_for_writes_in_place"

    async def clone_cache(self, source: Path, target: Path) -> None:
        await run_tool(["cp", "-al", str(source), str(target)], doing="link")


class CopiesCachesPoorly(BrokenStore):
    CAUGHT_BY = "a_cache_keeps_everything_that_is_in_it"

    async def clone_cache(self, source: Path, target: Path) -> None:
        await run_tool(["cp", "-dR", str(source), str(target)], doing="copy")
        info = source.stat()
        os.chown(target, info.st_uid, info.st_gid)


class _Caches(BrokenStore):
    CACHES: ClassVar[type[NamedCaches]]

    def named_caches(self, prefix: str) -> NamedCaches:
        naming = CacheNaming(prefix=prefix)
        return self.CACHES(self, self.root, self.state_dir, naming=naming)


class _LocksOfThisProcess(NamedCaches):
    def __init__(
        self, store: CacheOperations, root: Path, state_dir: Path, *, naming: CacheNaming | None
    ) -> None:
        super().__init__(store, root, state_dir, naming=naming)
        self._locks = Locks(state_dir / f"locks-{os.getpid()}")


class KnowsItsOwnUsersAlone(_Caches):
    CAUGHT_BY = "a_cache_in_use_by_another_process_is_busy"
    CACHES = _LocksOfThisProcess


class _RecordsOfThisProcess(NamedCaches):
    def __init__(
        self, store: CacheOperations, root: Path, state_dir: Path, *, naming: CacheNaming | None
    ) -> None:
        super().__init__(store, root, state_dir, naming=naming)
        self._records = state_dir / f"caches-{os.getpid()}"
        self._records.mkdir(exist_ok=True)


class CountsItsOwnReleasesAlone(_Caches):
    CAUGHT_BY = "the_first_release_wins_against_another_process"
    CACHES = _RecordsOfThisProcess


class _InTwoSteps(NamedCaches):
    async def replace(self, copy: Path, current: Path) -> None:
        await run_tool(["rm", "-rf", str(current)], doing="remove")
        await many_programs()
        copy.rename(current)


class ReleasesInTwoSteps(_Caches):
    CAUGHT_BY = "a_release_that_is_killed_leaves_the_old_version_or_the_new"
    CACHES = _InTwoSteps


BROKEN_CACHES = [
    kind
    for kind in list(globals().values())
    if isinstance(kind, type)
    and issubclass(kind, BrokenStore)
    and kind is not BrokenStore
    and not kind.__name__.startswith("_")
]
