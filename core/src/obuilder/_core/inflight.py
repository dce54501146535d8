"""One execution per id, many followers: a step runs in the builder's task group, clients watch.

The step is cancelled when its last client has left. A client that comes while
it is being cancelled waits for that to end, then starts it again.
"""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from obuilder._core.build_log import StepLog
from obuilder.errors import BuildError
from obuilder.types import Id

__all__ = ["Inflight", "Outcome", "Sink", "Work"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The saved result, and whether it was there before."""

    path: Path
    cached: bool


Sink = Callable[[bytes | str], Awaitable[None]]
"""Gets output (bytes) and notes (str) of the step, from its beginning."""

Work = Callable[[Callable[[StepLog], None]], Awaitable[Outcome]]
"""Makes a step; it hands over its log as soon as there is one."""


class Inflight:
    """The steps that run now in one builder."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._running: dict[Id, _Execution] = {}

    def is_running(self, id: Id) -> bool:
        """Whether somebody in this process makes the step now."""
        return id in self._running

    async def share(self, id: Id, work: Work, sink: Sink) -> Outcome:
        """Join the execution of `id`, or start `work`; raises what it raises."""
        while (execution := self._running.get(id)) and execution.leaving:
            await execution.done.wait()
        if execution is None:
            execution = self._running[id] = _Execution()
            self._tasks.start_soon(self._execute, id, execution, work)
        execution.followers += 1
        try:
            return await execution.follow(sink)
        finally:
            execution.leave()

    async def _execute(self, id: Id, execution: "_Execution", work: Work) -> None:
        try:
            with execution.scope:
                try:
                    execution.outcome = await work(execution.publish)
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
        self.done = anyio.Event()
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self._log: StepLog | None = None
        self._begun = anyio.Event()

    def publish(self, log: StepLog) -> None:
        self._log = log
        self._begun.set()

    def finish(self) -> None:
        self._begun.set()
        self.done.set()
        self._dispose()

    def leave(self) -> None:
        self.followers -= 1
        if not self.followers and not self.done.is_set():
            self.leaving = True
            self.scope.cancel()
        self._dispose()

    def _dispose(self) -> None:
        # The log is closed before the result is published; who comes after that,
        # or has not begun to read, still gets it whole.
        if self._log is not None and self.done.is_set() and not self.followers:
            self._log.dispose()

    async def follow(self, sink: Sink) -> Outcome:
        await self._begun.wait()
        if self._log is not None:
            async with aclosing(self._log.follow()) as pieces:
                async for piece in pieces:
                    await sink(piece)
        await self.done.wait()
        if self.error is not None:
            raise self.error
        if self.outcome is None:
            raise BuildError("the step was cancelled", code="build.cancelled")
        return self.outcome
