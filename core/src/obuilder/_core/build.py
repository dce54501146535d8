"""The builder: walks a spec's stages and asks the backends to make each step once."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread

from obuilder._core.context import Context
from obuilder._core.db import Database
from obuilder._core.disk import disk_errors
from obuilder._core.inflight import Inflight, Outcome
from obuilder._core.keeper import Keeper
from obuilder._core.mover import Mover
from obuilder._core.observe import BuildObserver, Observer, Telling
from obuilder._core.platforms import machine_platform, same_platform
from obuilder._core.prune import Pruner
from obuilder._core.recovery import recover
from obuilder._core.reserve import Reserve
from obuilder._core.saved_env import read_env
from obuilder._core.steps import Backends, ImportStep, Step, copy_step, run_step
from obuilder.errors import BuildError, SourceError, StoreError
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
    both absolute; `platform` (`OS/ARCH`) defaults to the builder's.
    """

    src_dir: Path | None = None
    spec_dir: Path | None = None
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    on_event: EventSink | None = None
    platform: str | None = None


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


class Builder:
    """Builds specs with three ready backends; use it in an `async with`.

    Any number of builds may run at once. Leaving the block ends the steps that
    still run and releases the database; the backends stay the caller's.
    """

    def __init__(
        self,
        store: Store[Any],
        sandbox: Sandbox[Any],
        fetcher: Fetcher[Any],
        *,
        observer: Observer | None = None,
        platform: str | None = None,
    ) -> None:
        """`platform` (`OS/ARCH`) is that of builds that say none; default: this machine's."""
        self._backends = Backends(store=store, sandbox=sandbox, fetcher=fetcher)
        self._store = store
        self._observer = observer
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
        return self

    async def _open(self, stack: AsyncExitStack, locks: Locks) -> None:
        path = self._store.state_dir / "db" / "db.sqlite"
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
        )
        self._pruner = Pruner(self._store, self._database, locks, reserve=self._reserve)
        self._mover = Mover(self._backends, self._database, locks)

    async def _make_room(self) -> None:
        # Closing the database writes too.
        with anyio.CancelScope(shield=True), suppress(OSError):
            await anyio.to_thread.run_sync(self._reserve.give_up_if_full)

    async def _keep_reserve(self) -> None:
        if self._reserve.is_given_up:
            with anyio.CancelScope(shield=True), suppress(StoreError, OSError):
                # There is still no room: whoever builds next is told so.
                await anyio.to_thread.run_sync(self._reserve.keep)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        if isinstance(error, Exception):
            # The task group would wrap the body's own error in a group.
            await self._stack.aclose()
            return None
        return await self._stack.__aexit__(kind, error, traceback)

    async def build(self, spec: ast.Stage, context: BuildContext | None = None) -> BuildResult:
        """Build `spec` and return the last step's result.

        Raises BuildError for what lies in the build, BackendError for what lies
        in the infrastructure. Cancelling leaves the steps to their other clients.
        """
        context = context or BuildContext()
        observer = BuildObserver(self._observer)
        telling = Telling(context.on_event)
        async with observer.build(), self._stage(spec, _Walk(context, telling, observer)) as done:
            await telling.build_finished(done.id)
            return done

    @asynccontextmanager
    async def _stage(self, stage: ast.Stage, walk: "_Walk") -> AsyncIterator[BuildResult]:
        """The stage's result, protected from deletion inside the block."""
        async with AsyncExitStack() as kept:
            for name, child in stage.builds:
                inner = walk.inside(name)
                await inner.telling.stage_started(name)
                result = await kept.enter_async_context(self._stage(child, inner))
                await inner.telling.stage_finished(name, result.id)
                walk.finished[name] = result
            async with AsyncExitStack() as holding:
                done = await self._base(stage.from_, walk, holding)
                env = await anyio.to_thread.run_sync(read_env, done.path / "env")
                state = Context(shell=self._backends.sandbox.default_shell, env=env)
                for op in stage.ops:
                    await walk.telling.op_started(op, state.workdir)
                    step = await _step(done.id, state, op, walk=walk)
                    if step is not None:
                        done = await self._advance(step, walk, holding)
                    state = state.after(op)
                yield done

    async def _base(self, text: str, walk: "_Walk", holding: AsyncExitStack) -> BuildResult:
        await walk.telling.base_started(text)
        wanted = walk.context.platform or self._platform
        fetch = FetchContext(
            platform=wanted, spec_dir=walk.context.spec_dir, source_dir=walk.context.src_dir
        )
        done = await self._advance(ImportStep(text=text, context=fetch), walk, holding)
        record = await self._keeper.record(done.id, done.path)
        if record and record.platform and not same_platform(record.platform, wanted):
            raise BuildError(
                f"the base {text} in this store is for {record.platform}, wanted is {wanted}",
                code="base.platform",
                hint=f"use another store for {wanted}, or remove it: obuilder delete {done.id}",
            )
        return done

    async def _advance(self, step: Step, walk: "_Walk", holding: AsyncExitStack) -> BuildResult:
        await walk.telling.step_started(step.id, step.kind)
        async with walk.observer.step(step.id, step.kind) as observed, AsyncExitStack() as taken:
            outcome: Outcome = await taken.enter_async_context(
                self._keeper.result(step, walk.telling.piece)
            )
            observed.cached = outcome.cached
            # Only now the base's is let go: the chain is never unprotected.
            await holding.aclose()
            holding.push_async_exit(taken.pop_all())
        await walk.telling.step_finished(step.id, cached=outcome.cached)
        return BuildResult(id=step.id, path=outcome.path)

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
        walk = _Walk(BuildContext(), Telling(None), BuildObserver(None))
        async with self._stage(ast.Stage(from_=base), walk) as done:
            env = await anyio.to_thread.run_sync(read_env, done.path / "env")
            state = Context(shell=ops[0].argv, env=env)
            return run_step(done.id, state, ops[1], secrets={}).id

    async def delete(self, id: Id, *, on_delete: Callable[[Id], None] | None = None) -> int:
        """Remove a result and all that was built on it, children first; returns how many.

        StoreError if there is none, or if a build is using one of them.
        """
        with disk_errors(self._store.state_dir):
            return await self._pruner.delete(id, on_delete=on_delete)

    async def prune(
        self,
        *,
        before: datetime,
        limit: int,
        on_delete: Callable[[Id], None] | None = None,
    ) -> int:
        """Remove up to `limit` results without children last used before `before`."""
        with disk_errors(self._store.state_dir):
            return await self._pruner.prune(before=before, limit=limit, on_delete=on_delete)

    async def clean(self, *, on_delete: Callable[[str], None] | None = None) -> int:
        """Remove every result and every cache that nothing uses; returns how many."""
        with disk_errors(self._store.state_dir):
            return await self._pruner.clean(on_delete=on_delete)

    async def export(self, id: Id, sink: int) -> None:
        """Write a result to the descriptor `sink`, as a stream for `import_`.

        StoreError if there is none, or it cannot be sent.
        """
        with disk_errors(self._store.state_dir):
            await self._mover.export(id, sink)

    async def push(self, id: Id, receiver: "Builder") -> bool:
        """Copy a result to another builder's store; False if it has it already.

        By a stream of the stores' own if both speak one (btrfs, zfs), which sends only the
        difference where the other store has the base too. StoreError as `export` and `import_`.
        """
        with disk_errors(self._store.state_dir):
            return await self._mover.push(id, receiver._mover)  # noqa: SLF001 - of the same class

    async def import_(self, id: Id, source: int) -> bool:
        """Take the result `id` from a stream; False if the store has it already.

        The whole tree is stored, whatever the store has of its bases, unless the stream is
        one of the store's own and holds a difference. StoreError if it is damaged, cut
        off, or another result's, or its base is not here; then nothing has changed.
        """
        with disk_errors(self._store.state_dir):
            return await self._mover.import_(id, source)

    async def counters(self) -> Counters:
        """The state of the store and the work of this builder."""
        return Counters(
            items=await self._database.count(),
            hits=self._keeper.hits,
            misses=self._keeper.misses,
            free_percent=await self._store.df(),
        )


class _Walk:
    """Where a build is: what it was given, whom it tells, and the stages in scope."""

    def __init__(self, context: BuildContext, telling: Telling, observer: BuildObserver) -> None:
        self.context = context
        self.telling = telling
        self.observer = observer
        self.finished: dict[str, BuildResult] = {}

    def inside(self, name: str) -> "_Walk":
        walk = _Walk(self.context, self.telling.inside(name), self.observer)
        walk.finished = dict(self.finished)
        return walk


async def _step(base: Id, state: Context, op: ast.Op, *, walk: _Walk) -> Step | None:
    match op:
        case ast.Run():
            return run_step(base, state, op, secrets=walk.context.secrets)
        case ast.Copy(from_=None):
            if walk.context.src_dir is None:
                raise SourceError(
                    "this build has no source directory to copy from", code="source.none"
                )
            return await copy_step(base, state, op, source=walk.context.src_dir)
        case ast.Copy(from_=str(name)):
            stage = walk.finished.get(name)
            if stage is None:  # a parsed spec has none such; a program's may
                raise BuildError(f"there is no finished stage {name!r} here", code="stage.unknown")
            return await copy_step(base, state, op, source=stage.path / "rootfs")
    return None
