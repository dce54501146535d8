"""Waiting for a step that another process makes: its log is followed, its error is shared."""

import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from obuilder._core.failed import KeptFailure, kept_failure
from obuilder._core.inflight import Followers
from obuilder._core.inotify import Polling, Watch
from obuilder._core.other_log import OtherLog
from obuilder._core.pieces import Wait, telling
from obuilder._core.record import tenure_of
from obuilder.errors import ErrorKind, StoreError
from obuilder.interfaces import Store
from obuilder.locks import Locks, Tenure
from obuilder.types import Id

__all__ = ["Elsewhere", "hold_followed"]

SAME_STEP = "the same step"
_NOT_FINISHED = "the process that made this step did not finish it"

# inotify(7): instances and watches that a user may have, which other programs use too.
_NO_MORE_WATCHES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM})

_logger = logging.getLogger(__name__)


class Elsewhere:
    """What was seen of others who made the step while its lock was waited for."""

    def __init__(self, locks: Locks, id: Id, *, store: Store[Any], followers: Followers) -> None:
        self._store = store
        self._locks = locks
        self._id = id
        self._followers = followers
        self._seen: set[Tenure] = set()
        self._log: OtherLog | None = None
        self._maker: Tenure | None = None
        self._waited = False

    def meet(self) -> Tenure | None:
        """Note who has the lock now."""
        tenure = self._locks.tenure(self._id)
        if tenure is not None:
            self._seen.add(tenure)
        return tenure

    async def follow(self) -> None:
        """Follow the log of whoever has the lock, until cancelled.

        A clone begins with its base's log: a log is the step's own only once the maker
        has marked its lock.
        """
        try:
            try:
                with Watch() as watch:
                    await self._watch(watch)
            except OSError as error:
                if error.errno not in _NO_MORE_WATCHES:
                    raise
                _logger.info("looking at the log of %s once a second: %s", self._id, error)
                await self._watch(Polling())
        except (OSError, StoreError) as error:
            # The lock has just been released; or the store is lost, which who waits finds out.
            # The rest of the log comes from where it is saved or kept.
            _logger.debug("the log of %s is followed no further: %s", self._id, error)

    async def _watch(self, watch: Watch | Polling) -> None:
        of_log: int | None = None
        watch.add(self._locks.path(self._id))
        while True:
            path = await self._store.log_file(self._id)
            tenure = self.meet()
            # Who gets the lock next need not make the step: it may find that it is made.
            if self._locks.is_marked(self._id) and (self._log is None or tenure != self._maker):
                with suppress(FileNotFoundError):  # it has just been saved, or removed
                    of_log = watch.add(path)
                    self._begin(path, tenure)
            changed = await watch.changed()
            if self._log is not None and of_log in changed:
                self._log.grow()

    def _begin(self, path: Path, maker: Tenure | None) -> None:
        if self._log is not None:
            self._log.end_gone()
            self._followers.tell(f"{_NOT_FINISHED}; another makes it again")
            holder = self._locks.holder(self._id) if self._waited else None
            if holder is not None:
                self._followers.tell(Wait(what=SAME_STEP, holder=holder))
        self._log, self._maker = OtherLog(path), maker
        self._log.grow()
        self._followers.publish(self._log)

    def end(self) -> None:
        """Whatever came in between, nobody waits for the rest of a log."""
        if self._log is not None:
            self._log.end()

    def tell(self, wait: Wait) -> None:
        """Tell the followers now, also while they follow a log."""
        self._waited = True
        (self._log or self._followers).tell(wait)

    async def saved(self, path: Path) -> bool:
        """The step has a result at `path`. Whether all of its log is told, or will be."""
        if self._log is None:
            return False
        if await anyio.to_thread.run_sync(tenure_of, path) != self._maker:
            self._log.end_gone()
            self._followers.tell(f"{_NOT_FINISHED}; another has made it")
            return False
        self._log.end_saved(await self._store.log_file(self._id))
        return True

    async def failed(self) -> None:
        """The step has none: raise what its maker raised, unless it was killed or cancelled.

        Nor what lay in the infrastructure: it may be better by now.
        """
        if not self._seen:
            return
        kept = self._store.state_dir / "failed"
        failure = await anyio.to_thread.run_sync(kept_failure, kept, self._id)
        if failure is not None and failure.tenure not in self._seen:
            failure = None
        if failure is not None:
            self._take_log(failure)
            if failure.error.kind is not ErrorKind.INFRASTRUCTURE:
                raise failure.error
            why = f"the process that made this step failed: {failure.error.what}"
        elif self._log is not None or self._waited:
            if self._log is not None:
                self._log.end_gone()
            why = _NOT_FINISHED
        else:
            return  # who had it for a moment need not have made it: a process that opens the store
        self._followers.tell(f"{why}; it is made again")

    def _take_log(self, failure: KeptFailure) -> None:
        log = self._log if failure.tenure == self._maker else None
        if log is None:
            if self._log is not None:
                self._log.end_gone()
                self._followers.tell(f"{_NOT_FINISHED}; another made it again")
            log = OtherLog(failure.log)
            self._followers.publish(log)
        log.end_kept(failure.log, skipped=failure.skipped_bytes)


@asynccontextmanager
async def hold_followed(
    locks: Locks, id: Id, *, store: Store[Any], followers: Followers
) -> AsyncIterator[Elsewhere]:
    """Hold the lock of a step for the block; while another has it, follow what that one does."""
    elsewhere = Elsewhere(locks, id, store=store, followers=followers)
    failure: Exception | None = None
    async with AsyncExitStack() as held:
        held.callback(elsewhere.end)
        if not held.enter_context(locks.try_hold(id)):
            elsewhere.meet()
            async with anyio.create_task_group() as tasks:
                following = anyio.CancelScope()

                def follow() -> None:
                    # The file that was watched is another's now, or gone.
                    nonlocal following
                    following.cancel()
                    following = anyio.CancelScope()
                    tasks.start_soon(_run, following, elsewhere.follow)

                follow()
                try:
                    on_wait = telling(SAME_STEP, elsewhere.tell)
                    waiting = locks.hold(id, on_wait=on_wait, on_next=follow)
                    await held.enter_async_context(waiting)
                except Exception as error:  # noqa: BLE001 - raised again outside the task group
                    failure = error
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        yield elsewhere


async def _run(scope: anyio.CancelScope, work: Callable[[], Awaitable[None]]) -> None:
    with scope:
        await work()
