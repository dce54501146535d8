"""What a dead builder left behind: found when a store is opened, and put in order.

A lock file that nobody holds is the trace of a process that died; what belongs
to it is discarded, or adopted if the store had already saved it. Whatever a
live process uses is locked, and is left alone.
"""

import logging
import re
import shutil
from collections import defaultdict

import anyio.to_thread

from obuilder._core.db import Database
from obuilder._core.record import read_side_file
from obuilder._core.steps import Backends
from obuilder.errors import StoreError
from obuilder.locks import Locks
from obuilder.types import Id, Leftover, LeftoverKind

__all__ = ["recover"]

_logger = logging.getLogger(__name__)
_ID = re.compile(r"[0-9a-f]{64}")


async def recover(backends: Backends, database: Database, locks: Locks) -> None:
    """Discard leftovers and adopt saved results of processes that are dead."""
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


async def _recover_one(
    key: str, leftovers: list[Leftover], backends: Backends, *, database: Database
) -> None:
    for leftover in leftovers:
        _logger.warning("removing a %s that a dead builder left: %s", leftover.kind, key)
        if leftover.kind is LeftoverKind.CONTAINER:
            await backends.sandbox.discard(leftover)
        else:
            await backends.store.discard(leftover)
    if not _ID.fullmatch(key):
        return
    id = Id(key)
    scratch = backends.store.state_dir / "scratch" / id
    await anyio.to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True))
    path = await backends.store.result(id)
    if path is None or await database.touch(id):
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
