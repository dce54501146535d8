"""Removing results and caches that nothing uses."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from obuilder._core.database.db import Database
from obuilder._core.disk import is_of_disk
from obuilder._core.reserve import Reserve
from obuilder.errors import CacheBusy, StoreError
from obuilder.interfaces import Store
from obuilder.locks import Locks, use_lock
from obuilder.types import Id

__all__ = ["Pruner"]

_BATCH = 100
_ROUND = 16
"""On a full disk, so many results are removed before their room is waited for."""
_HELD = 200
"""Of so many results a deletion keeps the locks, with two descriptors each."""
_RESISTING = 2
"""So many that cannot be removed are passed over; the next ends it: others may be alike."""
_CLOCKS_DIFFER = timedelta(minutes=5)
"""Machines that share a store need not agree to the second."""

_logger = logging.getLogger(__name__)
OnDelete = Callable[[Id], None]


class _Resisting:
    """What could not be removed: the rest is removed all the same, unless it may be alike."""

    def __init__(self, store: Store[Any]) -> None:
        self._store = store
        self._errors: list[StoreError] = []

    async def add(self, error: StoreError) -> None:
        """Raises the error if it is the disk's, or one of many."""
        looked_at = partial(is_of_disk, error, self._store.state_dir)
        if len(self._errors) == _RESISTING or await anyio.to_thread.run_sync(looked_at):
            raise error
        _logger.warning("%s", error)
        self._errors.append(error)

    def tell(self) -> None:
        """Raise the last, if there was any."""
        if self._errors:
            raise self._errors[-1]


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
        with ExitStack() as held:
            free = held.enter_context(self._alone(id))
            if await self._store.result(id) is None and not await self._is_known(id):
                if missing_ok:
                    return 0
                raise StoreError(f"there is no result {id}", code="store.unknown-id")
            if not free:
                raise _in_use(id)
            order = await self._descent(id, held)
            for each in reversed(order[_HELD:]):
                if not await self._remove(each, on_delete):
                    raise _in_use(each)
            for each in reversed(order[:_HELD]):
                if not await self._remove_held(each, on_delete):
                    raise _in_use(each)
        await self._store.complete_deletes()
        return len(order)

    async def _descent(self, id: Id, held: ExitStack) -> list[Id]:
        """A result and all that was built on it, parents first; as many as can be are held."""
        order: list[Id] = []
        rest = [id]
        is_circle = False
        # Before the first one goes: it is all of them or none. Of more than can be held a build
        # comes to the others by way of these; only who sends or prunes one does not.
        while rest:
            order.append(each := rest.pop())
            with ExitStack() as looked_at:
                keeping = held if len(order) <= _HELD else looked_at
                if each != id and not keeping.enter_context(self._alone(each)):
                    raise _in_use(each)
                # Under its lock: nobody builds on it any more.
                children = await self._database.children(each)
                is_circle = is_circle or id in children
                rest.extend(child for child in children if child != id)
        if is_circle:  # by a record that was damaged: as it is, none of them could go
            await self._database.cut(id)
        return order

    async def prune(
        self, *, before: datetime | None, limit: int, on_delete: OnDelete | None = None
    ) -> int:
        """Remove up to `limit` results without children, least recently used first.

        StoreError, at the end if it was of few of them, for what could not be removed.
        """
        resisting = _Resisting(self._store)
        removed = await self._prune(before, limit, on_delete, resisting=resisting)
        await self._store.complete_deletes()
        resisting.tell()
        return removed

    async def _prune(
        self,
        before: datetime | None,
        limit: int,
        on_delete: OnDelete | None,
        *,
        resisting: _Resisting,
    ) -> int:
        removed = 0
        skipped: set[Id] = set()
        while removed < limit:
            # Not by an offset: a result that has lost its last child may come before these.
            oldest = await self._database.unused(before=before, limit=_BATCH + len(skipped))
            batch = [id for id in oldest if id not in skipped][: limit - removed]
            if not batch:
                break
            for id in batch:
                if await self._is_removed(id, on_delete, resisting):
                    removed += 1
                else:
                    skipped.add(id)
        if before is not None:
            await self._tell_of_the_future(before)
        await self._database.sweep()
        return removed

    async def _is_removed(self, id: Id, on_delete: OnDelete | None, resisting: _Resisting) -> bool:
        try:
            return await self._remove(id, on_delete)
        except StoreError as error:
            if error.code == "store.in-use":  # by a clone that the database does not know of
                _logger.info("%s", error)
                return False
            await resisting.add(error)
            return await self._store.result(id) is None

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
        """Remove every result and every cache that nothing uses. StoreError as `prune`."""
        resisting = _Resisting(self._store)
        removed = await self._prune(None, 2**62, on_delete, resisting=resisting)
        removed += await self._remove_unknown(on_delete, resisting)
        for name in await self._store.caches():
            try:
                await self._store.delete_cache(name)
            except CacheBusy:
                _logger.warning("cache %s stays: a step is using it", name)
                continue
            except StoreError as error:
                await resisting.add(error)
                continue
            if on_delete:
                on_delete(f"cache {name}")
            removed += 1
        await self._store.complete_deletes()
        resisting.tell()
        return removed

    async def _remove_unknown(self, on_delete: OnDelete | None, resisting: _Resisting) -> int:
        """Results that the database does not know: it was lost, or a crash came in between."""
        unknown = [id for id in await self._store.results() if not await self._is_known(id)]
        removed = 0
        while unknown:
            refused: dict[Id, StoreError] = {}
            for id in unknown:
                try:
                    removed += await self._remove(id, on_delete)
                except StoreError as error:
                    if error.code == "store.in-use":  # by what the next round may find gone
                        refused[id] = error
                    else:
                        await resisting.add(error)
            if len(refused) == len(unknown):
                await resisting.add(refused[unknown[0]])
                break
            unknown = list(refused)
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
            try:
                await self._store.delete(id)
            except StoreError:
                # What could not be removed is a leftover then, and no result.
                if await self._store.result(id) is None:
                    await self._database.remove(id)
                raise
            await self._database.remove(id)
        self._removed += 1
        if self._reserve.is_given_up and self._removed % _ROUND == 0:
            # What it held is all the room that there is, until this is freed.
            await self._store.complete_deletes()
        return True


def _in_use(id: Id) -> StoreError:
    return StoreError(
        f"result {id} is in use, by a build or by a command that removes or sends it",
        code="store.in-use",
        hint="try again when that has ended",
    )
