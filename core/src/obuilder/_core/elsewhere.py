"""Waiting for a step that another process makes: its log is followed, its error is shared."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import anyio
import anyio.to_thread

from obuilder._core.failed import kept_error, kept_log
from obuilder._core.inflight import Followers
from obuilder._core.inotify import Watch
from obuilder._core.other_log import OtherLog
from obuilder._core.pieces import Wait, telling
from obuilder.errors import ErrorKind
from obuilder.interfaces import Store
from obuilder.locks import Locks
from obuilder.types import Id

__all__ = ["Elsewhere", "hold_followed"]

_logger = logging.getLogger(__name__)


class Elsewhere:
    """What was seen of others who made the step while its lock was waited for."""

    def __init__(self, locks: Locks, id: Id, *, store: Store[Any], followers: Followers) -> None:
        self._store = store
        self._locks = locks
        self._id = id
        self._followers = followers
        self.begun: datetime | None = None
        self._log: OtherLog | None = None

    async def follow(self) -> None:
        """Follow the log of whoever has the lock, until cancelled.

        A clone begins with its base's log: a log is the step's own only once the maker
        has marked its lock.
        """
        try:
            with Watch() as watch:
                await self._watch(watch)
        except OSError as error:
            # Its log is replayed when it is done.
            _logger.debug("the log of %s cannot be followed: %s", self._id, error)

    async def _watch(self, watch: Watch) -> None:
        of_log: int | None = None
        watch.add(self._locks.path(self._id))
        while True:
            if self._log is None and self._locks.is_marked(self._id):
                path = await self._store.log_file(self._id)
                with suppress(FileNotFoundError):  # it has just been saved, or removed
                    of_log = watch.add(path)
                    self._log = OtherLog(path)
                    self._log.grow()
                    self._followers.publish(self._log)
            changed = await watch.changed()
            if self._log is not None and of_log in changed and not self._log.grow():
                # Another has come after one who died, and begins anew.
                self._log.end(None)
                self._log = None

    def tell(self, wait: Wait) -> None:
        """Tell the followers now, also while they follow a log."""
        (self._log or self._followers).tell(wait)

    async def saved(self) -> bool:
        """The step has a result. Whether all of its log is told, or will be."""
        if self._log is None:
            return False
        self._log.end(await self._store.log_file(self._id))
        return True

    async def failed(self) -> None:
        """The step has none: raise what its maker raised, unless it was killed or cancelled.

        Nor what lay in the infrastructure: it may be better by now.
        """
        if self.begun is None:
            return
        kept = self._store.state_dir / "failed"
        error = await anyio.to_thread.run_sync(kept_error, kept, self._id, self.begun)
        if self._log is not None:
            self._log.end(kept_log(kept, self._id) if error else None)
        if error is not None and error.kind is not ErrorKind.INFRASTRUCTURE:
            raise error
        why = f"failed: {error.what}" if error else "is gone"
        self._followers.tell(f"the process that made this step {why}; it is made again")


@asynccontextmanager
async def hold_followed(
    locks: Locks, id: Id, *, store: Store[Any], followers: Followers
) -> AsyncIterator[Elsewhere]:
    """Hold the lock of a step for the block; while another has it, follow what that one does."""
    elsewhere = Elsewhere(locks, id, store=store, followers=followers)
    failure: Exception | None = None
    async with AsyncExitStack() as held:
        if not held.enter_context(locks.try_hold(id)):
            elsewhere.begun = locks.since(id)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(elsewhere.follow)
                try:
                    on_wait = telling("the same step", elsewhere.tell)
                    await held.enter_async_context(locks.hold(id, on_wait=on_wait))
                except Exception as error:  # noqa: BLE001 - raised again outside the task group
                    failure = error
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        yield elsewhere
