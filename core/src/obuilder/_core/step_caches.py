"""The caches of a step: private copies, and one user at a time for those that ask for it."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from obuilder._core.build_log import StepLog
from obuilder._core.pieces import Wait, telling
from obuilder.interfaces import Store
from obuilder.locks import Locks, OnWait, waits_told
from obuilder.spec import ast
from obuilder.types import Mount, User

__all__ = ["locked_caches", "locked_name", "mounted_caches"]

_LOCKED = ("sharing", "locked")


@asynccontextmanager
async def locked_caches(
    locks: Locks, caches: Sequence[ast.Cache], *, tell: Callable[[Wait], None]
) -> AsyncIterator[bool]:
    """Have alone, for the block, those caches that ask for it. StoreError.

    Yields whether a process has died with one of them.

    With BuildKit's option `sharing` `locked`, no other step that says so too has the cache,
    in any process; all others have private copies, of which the first that is released wins.
    """
    left = False
    async with AsyncExitStack() as held:
        # In one order for all, so that no two wait for each other.
        for name in sorted({cache.id for cache in caches if _LOCKED in cache.buildkit_options}):
            on_wait = telling(f"cache {name!r}", tell)
            await held.enter_async_context(locks.hold(locked_name(name), on_wait=on_wait))
            left = left or locks.was_left(locked_name(name))
        yield left


@asynccontextmanager
async def mounted_caches(
    store: Store[Any], caches: Sequence[ast.Cache], *, user: User, log: StepLog
) -> AsyncIterator[tuple[Mount, ...]]:
    """The mounts of a step's caches, private copies, for the block. StoreError.

    A cache that has several targets is the one same copy at each: of two copies, what the
    command put into one would be thrown away.
    """
    async with AsyncExitStack() as held:
        copies: dict[str, Path] = {}
        for cache in caches:
            if cache.id not in copies:
                copy = _copy(store, cache.id, user=user, log=log)
                copies[cache.id] = await held.enter_async_context(copy)
        yield tuple(Mount(source=copies[cache.id], target=cache.target) for cache in caches)


@asynccontextmanager
async def _copy(store: Store[Any], name: str, *, user: User, log: StepLog) -> AsyncIterator[Path]:
    copy: Path | None = None
    # Others copy or release it just now, which takes as long as it is large.
    told = telling(f"cache {name!r}, which is being copied", log.tell)
    try:
        async with _telling_waits(store.cache(name, user=user), told) as copy:
            yield copy
    finally:
        if copy is not None and store.cache_was_kept(copy) is False:
            log.tell(f"cache {name!r}: another was first, what this step put there is thrown away")


@asynccontextmanager
async def _telling_waits(
    used: AbstractAsyncContextManager[Path], told: OnWait
) -> AsyncIterator[Path]:
    """`used`, where the waits of its beginning and its end are told, and not those of the block."""
    with waits_told(told):
        copy = await used.__aenter__()
    try:
        yield copy
    except BaseException as error:
        with waits_told(told):
            if not await used.__aexit__(type(error), error, error.__traceback__):
                raise
    else:
        with waits_told(told):
            await used.__aexit__(None, None, None)


def locked_name(name: str) -> str:
    """The lock of a cache that has one user at a time."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    # No id: what is left of one is no result's.
    return f"locked-{digest}"
