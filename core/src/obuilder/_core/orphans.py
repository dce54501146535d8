"""Containers of builders that died: ended before anything goes on that they would disturb.

The lock of a dead builder is free, but what it started may live on, and write.
"""

import logging
from contextlib import AsyncExitStack
from typing import Any

import anyio

from obuilder.interfaces import Sandbox
from obuilder.locks import Locks
from obuilder.types import Id, Leftover

__all__ = ["DYING_S", "end_orphans", "end_those_of_dying"]

_logger = logging.getLogger(__name__)

DYING_S = 1.0
"""How long the kernel may take to free all locks of a process, seconds."""


async def end_orphans(sandbox: Sandbox[Any], id: Id) -> None:
    """End what has been left running for a step, whose lock is held here. SandboxError."""
    for leftover in await sandbox.leftovers():
        if leftover.key == id:
            await _end(sandbox, leftover)


async def end_those_of_dying(sandbox: Sandbox[Any], locks: Locks) -> None:
    """End what has been left running by one who died with a slot or a cache. SandboxError.

    It still uses that. Its locks are not all freed at one moment: some of it may not look
    dead yet.
    """
    for leftover in await sandbox.leftovers():
        holder = locks.holder(leftover.key)
        if holder is not None and holder.pid is not None:
            continue  # it lives
        async with AsyncExitStack() as held:
            dead = False
            with anyio.move_on_after(DYING_S):
                await held.enter_async_context(locks.hold(leftover.key))
                dead = True
            if dead and leftover in await sandbox.leftovers():
                await _end(sandbox, leftover)


async def _end(sandbox: Sandbox[Any], leftover: Leftover) -> None:
    _logger.warning("removing a %s that a dead builder left: %s", leftover.kind, leftover.key)
    await sandbox.discard(leftover)
