"""One execution per id, many followers: a step runs in the builder's task group, clients watch.

The step is cancelled when its last client leaves, who waits for that to end. So does
a client that comes meanwhile, who then starts it again.
"""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from obuilder import locks
from obuilder._core.pieces import Piece, Sink, Wait
from obuilder.errors import BuildError
from obuilder.types import Holder, Id

__all__ = ["Followers", "Inflight", "Log", "Outcome", "Work"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The saved result, and whether it was there before.

    `told`: whether who followed the step has had its log.
    """

    path: Path
    cached: bool
    told: bool = True


class Log(Protocol):
    """What can be followed to its end."""

    def follow(self) -> AsyncGenerator[Piece, None]:
        """All pieces from the beginning, until there will be no more."""

    def dispose(self) -> None:
        """Nobody follows any more, nor will."""


class Followers(Protocol):
    """Those who follow a step that is being made."""

    def tell(self, piece: Piece) -> None:
        """Tell them something before there is a log."""

    def publish(self, log: Log) -> None:
        """Let them follow a log, as soon as there is one."""

    @property
    def have_left(self) -> bool:
        """Whether nobody follows any more, nor will."""


Work = Callable[[Followers], Awaitable[Outcome]]
"""Makes a step."""


class Inflight:
    """The steps that run now in one builder."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._running: dict[Id, _Execution] = {}

    def is_running(self, id: Id) -> bool:
        """Whether somebody in this process makes the step now."""
        return id in self._running

    async def share(self, id: Id, work: Work, sink: Sink) -> Outcome:
        """Join the execution of `id`, or start `work`; raises what it raises.

        Cancelling the last who has joined returns when the step has been cleaned up.
        """
        execution = self._running.get(id)
        if execution is not None and execution.leaving:
            await self._until_left(id, sink)
            execution = self._running.get(id)
        if execution is None:
            execution = self._running[id] = _Execution()
            try:
                self._tasks.start_soon(self._execute, id, execution, work)
            except RuntimeError as error:  # the task group has ended
                del self._running[id]
                raise BuildError("the builder is closed", code="build.closed") from error
        execution.followers += 1
        try:
            return await execution.follow(sink)
        finally:
            execution.leave()
            if execution.leaving:
                # The step runs in the builder's tasks and needs nothing of ours to end.
                with anyio.CancelScope(shield=True):
                    await execution.done.wait()

    async def _until_left(self, id: Id, sink: Sink) -> None:
        told = False
        # Another may have started it again meanwhile, and left it too.
        while (execution := self._running.get(id)) and execution.leaving:
            with anyio.move_on_after(None if told else locks.TELL_AFTER_S):
                await execution.done.wait()
            if not told and not execution.done.is_set():
                told = True
                holder = Holder(pid=os.getpid(), since=execution.leaving_since)
                await sink(Wait(what=f"the clean-up of cancelled {id}", holder=holder))

    async def _execute(self, id: Id, execution: "_Execution", work: Work) -> None:
        try:
            with execution.scope:
                try:
                    execution.outcome = await work(execution)
                except Exception as error:  # noqa: BLE001 - raised again in every follower
                    execution.error = error
        finally:
            del self._running[id]
            execution.finish()


class _Execution:
    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.followers = 0
        self.leaving = False
        self.leaving_since = datetime.now(UTC)
        self.done = anyio.Event()
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self._told: list[Piece | Log] = []
        self._changed = anyio.Event()

    def tell(self, piece: Piece) -> None:
        self._add(piece)

    def publish(self, log: Log) -> None:
        self._add(log)

    @property
    def have_left(self) -> bool:
        return self.leaving

    def finish(self) -> None:
        self.done.set()
        self._wake()
        self._dispose()

    def leave(self) -> None:
        self.followers -= 1
        if not self.followers and not self.done.is_set():
            self.leaving, self.leaving_since = True, datetime.now(UTC)
            self.scope.cancel()
        self._dispose()

    def _add(self, what: "Piece | Log") -> None:
        self._told.append(what)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _dispose(self) -> None:
        # A log is closed before the result is published; who comes after that,
        # or has not begun to read, still gets it whole.
        if self.done.is_set() and not self.followers:
            for what in self._told:
                if not isinstance(what, bytes | str | Wait):
                    what.dispose()

    async def follow(self, sink: Sink) -> Outcome:
        told = 0
        while True:
            changed, done = self._changed, self.done.is_set()
            while told < len(self._told):
                await _pass_on(self._told[told], sink)
                told += 1
            if done:
                break
            await changed.wait()
        if self.error is not None:
            raise self.error
        if self.outcome is None:
            raise BuildError("the step was cancelled", code="build.cancelled")
        return self.outcome


async def _pass_on(what: Piece | Log, sink: Sink) -> None:
    if isinstance(what, bytes | str | Wait):
        await sink(what)
        return
    async with aclosing(what.follow()) as pieces:
        async for piece in pieces:
            await sink(piece)
