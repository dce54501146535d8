"""Removing results and caches that nothing uses."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio

from obuilder._core.database.db import Database
from obuilder._core.reserve import Reserve
from obuilder.errors import CacheBusy, StoreError
from obuilder.interfaces import Store
from obuilder.locks import Locks, use_lock
from obuilder.types import Id

__all__ = ["Pruner"]

_BATCH = 100
_ROUND = 16
"""On a full disk, so many results are removed before their room is waited for."""
_CLOCKS_DIFFER = timedelta(minutes=5)
"""Machines that share a store need not agree to the second."""

_logger = logging.getLogger(__name__)
OnDelete = Callable[[Id], None]


class Pruner:
    """Deletes under each item's lock, so never what a build stands on."""

    def __init__(
        self, store: Store[Any], database: Database, locks: Locks, *, reserve: Reserve
    ) -> None:
        self._store = store
        self._database = database
        self._locks = locks
        self._reserve = reserve
        self._removed = 0

    async def delete(
        self, id: Id, *, on_delete: OnDelete | None = None, missing_ok: bool = False
    ) -> int:
        """Remove `id` and its descendants, children first. StoreError if missing or in use."""
        # A build comes to what was built on it only by way of it: none does meanwhile.
        with self._alone(id) as free:
            if await self._store.result(id) is None and not await self._is_known(id):
                if missing_ok:
                    return 0
                raise StoreError(f"there is no result {id}", code="store.unknown-id")
            if not free:
                raise _in_use(id)
            order: list[Id] = []
            rest = [id]
            while rest:
                order.append(rest.pop())
                rest.extend(await self._database.children(order[-1]))
            # Before the first one goes: a chain is deleted whole or not at all.
            for each in order[1:]:
                with self._alone(each) as free_too:
                    if not free_too:
                        raise _in_use(each)
            for each in reversed(order[1:]):
                if not await self._remove(each, on_delete):
                    raise _in_use(each)
            if not await self._remove_held(id, on_delete):
                raise _in_use(id)
        await self._store.complete_deletes()
        return len(order)

    async def prune(
        self, *, before: datetime | None, limit: int, on_delete: OnDelete | None = None
    ) -> int:
        """Remove up to `limit` results without children, least recently used first."""
        removed = 0
        skipped: set[Id] = set()
        while removed < limit:
            # Not by an offset: a result that has lost its last child may come before these.
            oldest = await self._database.unused(before=before, limit=_BATCH + len(skipped))
            batch = [id for id in oldest if id not in skipped][: limit - removed]
            if not batch:
                break
            for id in batch:
                if await self._is_removed(id, on_delete):
                    removed += 1
                else:
                    skipped.add(id)
        if before is not None:
            await self._tell_of_the_future(before)
        await self._database.sweep()
        await self._store.complete_deletes()
        return removed

    async def _is_removed(self, id: Id, on_delete: OnDelete | None) -> bool:
        try:
            return await self._remove(id, on_delete)
        except StoreError as error:
            # By a clone that the database does not know as its child.
            if error.code != "store.in-use":
                raise
            _logger.info("%s", error)
            return False

    async def _tell_of_the_future(self, before: datetime) -> None:
        # A clock that was wrong, or is: nobody knows which, so their times stay as they are.
        count = await self._database.count_later(max(datetime.now(UTC) + _CLOCKS_DIFFER, before))
        if count:
            _logger.warning(
                "%d of the results were last used in the future: was the clock set back?"
                " A later date as `--before` removes them",
                count,
            )

    async def clean(self, *, on_delete: Callable[[str], None] | None = None) -> int:
        """Remove every result and every cache that nothing uses."""
        removed = await self.prune(before=None, limit=2**62, on_delete=on_delete)
        removed += await self._remove_unknown(on_delete)
        for name in await self._store.caches():
            try:
                await self._store.delete_cache(name)
            except CacheBusy:
                _logger.warning("cache %s stays: a step is using it", name)
                continue
            if on_delete:
                on_delete(f"cache {name}")
            removed += 1
        await self._store.complete_deletes()
        return removed

    async def _remove_unknown(self, on_delete: OnDelete | None) -> int:
        """Results that the database does not know: it was lost, or a crash came in between."""
        unknown = [id for id in await self._store.results() if not await self._is_known(id)]
        refused: list[Id] = []
        removed = 0
        while unknown:
            for id in unknown:
                try:
                    removed += await self._remove(id, on_delete)
                except StoreError:  # the next round tells: another may have been built on it
                    refused.append(id)
            if len(refused) == len(unknown):
                raise StoreError(f"cannot remove {len(refused)} results, such as {refused[0]}")
            unknown, refused = refused, []
        return removed

    async def _is_known(self, id: Id) -> bool:
        return await self._database.touch(id)

    @contextmanager
    def _alone(self, id: Id) -> Iterator[bool]:
        with self._locks.try_hold(use_lock(id)) as unused, self._locks.try_hold(id) as unmade:
            yield unused and unmade

    async def _remove(self, id: Id, on_delete: OnDelete | None) -> bool:
        with self._alone(id) as free:
            return free and await self._remove_held(id, on_delete)

    async def _remove_held(self, id: Id, on_delete: OnDelete | None) -> bool:
        if await self._database.children(id):
            return False
        if on_delete:
            on_delete(id)
        with anyio.CancelScope(shield=True):
            await self._store.delete(id)
            await self._database.remove(id)
        self._removed += 1
        if self._reserve.is_given_up and self._removed % _ROUND == 0:
            # What it held is all the room that there is, until this is freed.
            await self._store.complete_deletes()
        return True


def _in_use(id: Id) -> StoreError:
    return StoreError(
        f"result {id} is in use by a running build",
        code="store.in-use",
        hint="try again when the build has ended",
    )
