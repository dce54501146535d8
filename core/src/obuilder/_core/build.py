"""The builder: walks a spec's stages and asks the backends to make each step once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread

from obuilder._core.checker.findings import Report
from obuilder._core.checker.fsck import Checker
from obuilder._core.context import Context
from obuilder._core.database.db import Database, database_file
from obuilder._core.disk import disk_errors
from obuilder._core.inflight import Inflight
from obuilder._core.keeper import Keeper
from obuilder._core.limits import Limits, check_count
from obuilder._core.mover import Mover
from obuilder._core.observe import BuildObserver, Observer
from obuilder._core.prune import Pruner
from obuilder._core.recovery import recover
from obuilder._core.reserve import Reserve
from obuilder._core.saved_env import read_env
from obuilder._core.stages import Stages, Wanted
from obuilder._core.steps import Backends, run_step
from obuilder._core.telling import Telling
from obuilder._platforms import machine_platform
from obuilder.errors import BuildError, ErrorKind, ObuilderError, StoreError
from obuilder.events import EventSink
from obuilder.interfaces import Fetcher, Sandbox, Store
from obuilder.locks import Locks
from obuilder.spec import ast
from obuilder.types import FetchContext, Id

__all__ = ["BuildContext", "BuildResult", "Builder", "Counters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """What a build needs besides its spec.

    `src_dir` is what `copy` reads from and `spec_dir` the spec's own directory,
    both absolute; `platform` (`OS/ARCH`) defaults to the builder's. `keep_going`: after a
    failure, stages that do not depend on it are made all the same.
    """

    src_dir: Path | None = None
    spec_dir: Path | None = None
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    on_event: EventSink | None = None
    platform: str | None = None
    keep_going: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """The id of the last step and the directory that holds its `rootfs` and `log`."""

    id: Id
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """`free_percent` is the store's; hits and misses are this builder's."""

    items: int
    hits: int
    misses: int
    free_percent: float


class _State(Enum):
    NEW = "the builder has not been opened"
    OPEN = "the builder is open"
    CLOSED = "the builder is closed"


class Builder:
    """Builds specs with three ready backends; use it in an `async with`.

    Any number of builds may run at once. Leaving the block ends the steps that
    still run and releases the database; the backends stay the caller's.
    """

    def __init__(  # noqa: PLR0913 - the options of one door, by keyword
        self,
        store: Store[Any],
        sandbox: Sandbox[Any],
        fetcher: Fetcher[Any],
        *,
        observer: Observer | None = None,
        platform: str | None = None,
        jobs: int | None = None,
        max_steps: int | None = None,
    ) -> None:
        """`platform` (`OS/ARCH`) is that of builds that say none; default: this machine's.

        `jobs`: how many steps are made at once; 1: the stages of a build in turn. None: any number.
        `max_steps`: how many by all the processes of the store that say so, 1 to 500; ValueError
        for others. None: any number.
        """
        if max_steps is not None:
            check_count("max_steps", max_steps)
        self._limits = Limits(jobs=jobs, max_steps=max_steps)
        self._backends = Backends(store=store, sandbox=sandbox, fetcher=fetcher)
        self._store = store
        self._observer = observer
        self._state = _State.NEW
        self._platform = platform or machine_platform()

    async def __aenter__(self) -> Self:
        state = self._store.state_dir
        async with AsyncExitStack() as stack:
            with disk_errors(state):
                self._reserve = Reserve(state)
                await anyio.to_thread.run_sync(self._reserve.give_up_if_full)
                stack.push_async_callback(self._keep_reserve)
                await self._open(stack, Locks(state / "locks"))
            self._stack = stack.pop_all()
        self._state = _State.OPEN
        return self

    async def _open(self, stack: AsyncExitStack, locks: Locks) -> None:
        path = database_file(self._store.state_dir)
        self._database = await stack.enter_async_context(Database.open(path))
        stack.push_async_callback(self._make_room)
        await recover(self._backends, self._database, locks)
        self._tasks = await stack.enter_async_context(anyio.create_task_group())
        self._keeper = Keeper(
            self._backends,
            self._database,
            locks=locks,
            inflight=Inflight(self._tasks),
            reserve=self._reserve,
            limits=self._limits,
        )
        self._pruner = Pruner(self._store, self._database, locks, reserve=self._reserve)
        self._mover = Mover(self._backends, self._database, locks)

    async def _make_room(self) -> None:
        # Closing the database writes too.
        with anyio.CancelScope(shield=True), suppress(OSError):
            await anyio.to_thread.run_sync(self._reserve.give_up_if_full)

    async def _keep_reserve(self) -> None:
        with anyio.CancelScope(shield=True), suppress(StoreError, OSError):
            # Where there is no room for it, whoever builds next is told so.
            await anyio.to_thread.run_sync(self._reserve.keep)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._state = _State.CLOSED
        self._tasks.cancel_scope.cancel()
        if isinstance(error, Exception):
            # The task group would wrap the body's own error in a group.
            await self._stack.aclose()
            return None
        return await self._stack.__aexit__(kind, error, traceback)

    async def build(self, spec: ast.Stage, context: BuildContext | None = None) -> BuildResult:
        """Build `spec` and return the last step's result.

        Raises BuildError for what lies in the build, BackendError for what lies
        in the infrastructure. Cancelling leaves the steps to their other clients;
        it returns when those that have none have been cleaned up.
        """
        with self._opened():
            context = context or BuildContext()
            observer = BuildObserver(self._observer)
            stages = self._stages(spec, context, observer)
            async with observer.build(), stages.built(spec) as done:
                await stages.telling.build_finished(done.id)
                return BuildResult(id=done.id, path=done.path)

    def drain(self) -> None:
        """Begin no new step, and let those that run end and be saved.

        Builds go on through what is cached, and end with BuildError, `build.drained`, where they
        need a step that is not, also if another process is making that. Not to be undone.
        """
        # Of a closed one nothing runs any more, and nothing will begin.
        if self._state is not _State.CLOSED:
            with self._opened():
                self._keeper.drain()

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Raise `build.closed` unless the builder is open, also if the block fails for that."""
        self._check_open()
        try:
            yield
        except ObuilderError as error:
            if error.kind is ErrorKind.INFRASTRUCTURE:  # a closed database, say
                self._check_open(error)
            raise

    def _check_open(self, cause: ObuilderError | None = None) -> None:
        if self._state is not _State.OPEN:
            raise BuildError(self._state.value, code="build.closed") from cause

    @contextmanager
    def _in_store(self) -> Iterator[None]:
        with self._opened(), disk_errors(self._store.state_dir):
            yield

    def _stages(self, spec: ast.Stage, context: BuildContext, observer: BuildObserver) -> Stages:
        platform = context.platform or self._platform
        wanted = Wanted(
            source=context.src_dir,
            secrets=context.secrets,
            fetch=FetchContext(
                platform=platform, spec_dir=context.spec_dir, source_dir=context.src_dir
            ),
            shell=self._backends.sandbox.default_shell,
            # Those of one name could not be told apart.
            side_by_side=self._limits.jobs != 1 and not _has_namesakes(spec),
            keep_going=context.keep_going,
        )
        telling = Telling(context.on_event)
        return Stages(self._keeper, wanted, telling=telling, observer=observer)

    async def healthcheck(self, *, base: str = "busybox", limit_s: float = 30.0) -> None:
        """Run `echo healthcheck` on `base` and remove the result again.

        BuildError if the command takes longer than `limit_s` seconds; fetching
        the base does not count.
        """
        await self.build(ast.Stage(from_=base))
        ops = (ast.Shell(("/bin/sh", "-c")), ast.Run(shell="echo healthcheck"))
        id = await self._healthcheck_id(base, ops)
        await self._forget(id)
        try:
            with anyio.fail_after(limit_s):
                await self.build(ast.Stage(from_=base, ops=ops))
        except TimeoutError as error:
            raise BuildError(
                f"the health check took longer than {limit_s:g} s", code="healthcheck.timeout"
            ) from error
        finally:
            with anyio.CancelScope(shield=True):
                await self._forget(id)

    async def _forget(self, id: Id) -> None:
        try:
            await self._pruner.delete(id, missing_ok=True)
        except StoreError as error:
            if error.code != "store.in-use":  # by another health check, which removes it too
                raise

    async def _healthcheck_id(self, base: str, ops: tuple[ast.Shell, ast.Run]) -> Id:
        stage = ast.Stage(from_=base)
        stages = self._stages(stage, BuildContext(), BuildObserver(None))
        async with stages.built(stage) as done:
            env = await anyio.to_thread.run_sync(read_env, done.path / "env")
            state = Context(shell=ops[0].argv, env=env)
            return run_step(done.id, state, ops[1], secrets={}).id

    async def delete(self, id: Id, *, on_delete: Callable[[Id], None] | None = None) -> int:
        """Remove a result and all that was built on it, children first; returns how many.

        StoreError if there is none, or if a build is using one of them.
        """
        with self._in_store():
            return await self._pruner.delete(id, on_delete=on_delete)

    async def prune(
        self,
        *,
        before: datetime,
        limit: int,
        on_delete: Callable[[Id], None] | None = None,
    ) -> int:
        """Remove up to `limit` results without children last used before `before`."""
        with self._in_store():
            return await self._pruner.prune(before=before, limit=limit, on_delete=on_delete)

    async def clean(self, *, on_delete: Callable[[str], None] | None = None) -> int:
        """Remove every result and every cache that nothing uses; returns how many."""
        with self._in_store():
            return await self._pruner.clean(on_delete=on_delete)

    async def check(self, *, repair: bool = False) -> Report:
        """What is wrong with the store; with `repair` also what was repaired, and what was not.

        What a running build uses, here or in another process, is left alone. What dead
        builders left was put in order when this one was opened: `open_checker` opens
        a store and does not do that.
        """
        return await Checker(self._store, self._backends.sandbox).check(repair=repair)

    async def export(self, id: Id, sink: int) -> None:
        """Write a result to the descriptor `sink`, as a stream for `import_`.

        StoreError if there is none, or it cannot be sent.
        """
        with self._in_store():
            await self._mover.export(id, sink)

    async def push(self, id: Id, receiver: "Builder") -> bool:
        """Copy a result to another builder's store; False if it has it already.

        By a stream of the stores' own if both speak one (btrfs, zfs), which sends only the
        difference where the other store has the base too. StoreError as `export` and `import_`.
        """
        with self._in_store(), receiver._opened():  # noqa: SLF001 - of the same class
            return await self._mover.push(id, receiver._mover)  # noqa: SLF001 - as above

    async def import_(self, id: Id, source: int) -> bool:
        """Take the result `id` from a stream; False if the store has it already.

        The whole tree is stored, whatever the store has of its bases, unless the stream is
        one of the store's own and holds a difference. StoreError if it is damaged, cut
        off, or another result's, or its base is not here; then nothing has changed.
        """
        with self._in_store():
            return await self._mover.import_(id, source)

    async def counters(self) -> Counters:
        """The state of the store and the work of this builder."""
        with self._in_store():
            return Counters(
                items=await self._database.count(),
                hits=self._keeper.hits,
                misses=self._keeper.misses,
                free_percent=await self._store.df(),
            )


def _has_namesakes(stage: ast.Stage) -> bool:
    names = [name for name, _ in stage.builds]
    return len(set(names)) < len(names) or any(_has_namesakes(each) for _, each in stage.builds)
