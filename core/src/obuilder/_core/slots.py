"""The store's slots for steps: at most so many are made at once, by all its processes together.

A slot is a lock, so that death frees it. Who finds all taken stands in a line
of tickets, locks too, each named for the moment at which it was taken: one
waits for the ticket just before its own, and only the first for the slots. So
who has just freed a slot does not get it again before those who wait, and one
release wakes one process. Who does not take a free slot for a second or two, as
a stopped process does not, is passed over. The line only keeps the order: should
two be first for a moment, the slots' own locks still hold the limit.
"""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from obuilder import locks
from obuilder.locks import Locks, OnWait

__all__ = ["Slots"]


PATIENCE_S = 1.0
"""How often who waits looks whether a slot is free all the same, seconds."""


class Slots:
    """The first `count` slots of a store; None: no limit, and nothing is ever waited for."""

    def __init__(self, locks: Locks, count: int | None) -> None:
        self._locks = locks
        self._names = [f"slot-{number + 1}" for number in range(count or 0)]
        # Those who wait for other slots have a line of their own, and hold nobody up here.
        self._line = f"ticket-{count}-"

    @property
    def what(self) -> str:
        """What is waited for, as clients are told."""
        count = len(self._names)
        return f"{'the one slot' if count == 1 else f'one of the {count} slots'} (max-steps)"

    @asynccontextmanager
    async def hold(self, *, on_wait: OnWait) -> AsyncIterator[bool]:
        """Have a slot for the block, after all who came before; `on_wait` as `Locks.hold`.

        Yields whether a process has died with it. Raises StoreError if the file system refuses.
        Cancelling stops the wait at once.
        """
        async with AsyncExitStack() as held:
            slot = None
            if self._names:
                slot = self._got_at_once(held) or await self._stand_in_line(held, on_wait)
            yield slot is not None and self._locks.was_left(slot)

    def _got_at_once(self, held: AsyncExitStack) -> str | None:
        if any(name.startswith(self._line) for name in self._locks.names()):
            return None
        names = (name for name in self._names if held.enter_context(self._locks.try_hold(name)))
        return next(names, None)

    async def _stand_in_line(self, held: AsyncExitStack, on_wait: OnWait) -> str:
        # The clock is the machine's, not the process's.
        ticket = f"{self._line}{time.monotonic_ns():020}-{secrets.token_hex(4)}"
        async with self._locks.hold(ticket, inherit=False):
            # No await lies between getting the slot and the return: none is lost.
            with anyio.move_on_after(locks.TELL_AFTER_S):
                return await self._wait_for_turn(ticket, held)
            holder = self._locks.holder_of_all(self._names)
            if holder is not None:
                await on_wait(holder)
            return await self._wait_for_turn(ticket, held)

    async def _wait_for_turn(self, ticket: str, held: AsyncExitStack) -> str:
        was_free = False
        while (before := self._just_before(ticket)) is not None:
            # Freed by one who has got a slot, has been cancelled or has died.
            with anyio.move_on_after(PATIENCE_S) as patience:
                async with self._locks.hold(before, inherit=False):
                    pass
            if patience.cancelled_caught:
                is_free = self._locks.holder_of_all(self._names) is None
                if is_free and was_free:
                    break  # whoever is before does not take it: it has been stopped
                was_free = is_free
        return await held.enter_async_context(self._locks.hold_any(self._names))

    def _just_before(self, ticket: str) -> str | None:
        earlier = [n for n in self._locks.names() if n.startswith(self._line) and n < ticket]
        return max(earlier, default=None)
