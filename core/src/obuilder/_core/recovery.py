"""What a dead builder left behind: found when a store is opened, and put in order.

A lock file that nobody holds is the trace of a process that died; what belongs
to it is discarded, or adopted if the store had already saved it. Whatever a
live process uses is locked, and is left alone.
"""

import logging
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import anyio.to_thread

from obuilder._core.database.db import Database
from obuilder._core.disk import is_of_disk
from obuilder._core.record import read_side_file
from obuilder._core.steps import Backends
from obuilder.errors import CacheBusy, ProcessError, StoreError
from obuilder.interfaces import Store
from obuilder.locks import Locks
from obuilder.named_cache import remove_unfinished
from obuilder.types import Id, Leftover, LeftoverKind

__all__ = ["parents_first", "recover"]

_logger = logging.getLogger(__name__)
_ID = re.compile(r"[0-9a-f]{64}")


async def recover(backends: Backends, database: Database, locks: Locks) -> None:
    """Discard leftovers, adopt saved results, forget deleted ones of processes that are dead."""
    found: dict[str, list[Leftover]] = defaultdict(list)
    for name in locks.names():
        found[name] = []
    # Containers first: one that lives on writes into the temporary result.
    for leftover in (*await backends.sandbox.leftovers(), *await backends.store.leftovers()):
        found[leftover.key].append(leftover)
    for key, leftovers in found.items():
        with locks.try_hold(key) as free:
            if free:
                if leftovers:
                    # Whoever had it may have ended well meanwhile.
                    present = [*await backends.sandbox.leftovers()]
                    present += await backends.store.leftovers()
                    leftovers = [each for each in leftovers if each in present]  # noqa: PLW2901 - fewer
                await _recover_one(key, leftovers, backends, database=database)
    await anyio.to_thread.run_sync(remove_unfinished, backends.store.state_dir)
    if database.may_lack:
        await _compare(backends.store, database, locks)
        await database.remove_unfinished()


async def _recover_one(
    key: str, leftovers: list[Leftover], backends: Backends, *, database: Database
) -> None:
    for leftover in leftovers:
        _logger.warning("removing a %s that a dead builder left: %s", leftover.kind, key)
        if leftover.kind is LeftoverKind.CONTAINER:
            # What it may write into is not removed before it has ended.
            await backends.sandbox.discard(leftover)
        else:
            await _discard(leftover, backends.store)
    if not _ID.fullmatch(key):
        return
    id = Id(key)
    scratch = backends.store.state_dir / "scratch" / id
    await anyio.to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True))
    await _settle(id, backends.store, database)


async def _discard(leftover: Leftover, store: Store[Any]) -> None:
    try:
        await store.discard(leftover)
    except CacheBusy as error:  # with a large one that may take minutes
        _logger.warning("%s", error.what)
    except (StoreError, ProcessError) as error:
        if await anyio.to_thread.run_sync(is_of_disk, error, store.state_dir):
            raise
        # Whoever needs its place is told the same as an error; the others go on.
        _logger.warning(
            "%s\n  it stays: `obuilder fsck` tells of it, and a build that needs its place fails",
            error,
        )


async def _settle(id: Id, store: Store[Any], database: Database) -> None:
    """Have the database know a result if and only if it is there. Under the lock of its id."""
    path = await store.result(id)
    if path is None:
        # Deleted by a process that died before it told the database. What was built on it
        # without our knowing keeps its row; a check tells.
        if not await database.children(id):
            await database.remove(id)
        return
    if await database.touch(id):
        return
    try:
        known = await anyio.to_thread.run_sync(read_side_file, path, id)
    except StoreError as error:
        # Said again, as an error, to a build that wants this one; the others go on.
        _logger.warning("%s", error)
        return
    if known is None:
        return  # not ours: adopted with its parent when a build comes to it
    _logger.warning("adopting result %s, which a dead builder had saved", id)
    await database.adopt(id, parent=known[0], record=known[1])


async def _compare(store: Store[Any], database: Database, locks: Locks) -> None:
    """Settle what a power cut has made the database forget: it syncs its log now and then only.

    A store that lists nothing may be one that cannot, or whose file system is not mounted: then
    nothing is forgotten.
    """
    listed = [id for id in await store.results() if _ID.fullmatch(id)]
    parents = await database.parents()
    unknown = {id: await _parent(id, store) for id in listed if id not in parents}
    gone = filter(_ID.fullmatch, parents.keys() - set(listed)) if listed else ()
    missing = {id: parents[id] for id in gone}
    for id in (*parents_first(unknown), *reversed(parents_first(missing))):
        with locks.try_hold(id) as free:
            if free:
                await _settle(id, store, database)


async def _parent(id: Id, store: Store[Any]) -> Id | None:
    path = await store.result(id)
    if path is None:
        return None
    try:
        known = await anyio.to_thread.run_sync(read_side_file, path, id)
    except StoreError:  # said when it is settled
        return None
    return known[0] if known else None


def parents_first(parents: Mapping[Id, Id | None]) -> list[Id]:
    """The keys, each after the one that it maps to, if that is a key too. Of a circle: in turn."""
    order: dict[Id, None] = {}
    for id in parents:
        chain: dict[Id, None] = {}
        at: Id | None = id
        while at is not None and at in parents and at not in order and at not in chain:
            chain[at] = None
            at = parents[at]
        order.update(dict.fromkeys(reversed(chain)))
    return list(order)
