"""The stages of one build: planned, made side by side, and protected until the build ends."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread

from obuilder._core.context import Context
from obuilder._core.keeper import Keeper
from obuilder._core.observe import BuildObserver
from obuilder._core.saved_env import read_env
from obuilder._core.shared_steps import Turn, turns
from obuilder._core.steps import ImportStep, Step, copy_step, run_step
from obuilder._core.telling import Telling
from obuilder._platforms import same_platform
from obuilder.errors import BuildError, ObuilderError, SourceError, StagesFailed
from obuilder.spec import ast
from obuilder.types import FetchContext, Id

__all__ = ["Finished", "Stages", "Wanted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The result of a stage's last step."""

    id: Id
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a build is of, besides its stages."""

    source: Path | None
    secrets: Mapping[str, bytes] = field(repr=False)
    fetch: FetchContext
    shell: tuple[str, ...]
    side_by_side: bool
    keep_going: bool


@dataclass(slots=True, kw_only=True, eq=False)
class _Node:
    stage: ast.Stage
    telling: Telling
    name: str | None
    children: Sequence["_Node"]
    scope: Mapping[str, "_Node"]
    """The stages that its `copy` may name."""
    number: int = -1
    """Its place among those of the build, as they would be made in turn."""
    turns: Sequence[Turn] = ()
    done: anyio.Event = field(default_factory=anyio.Event)
    result: Finished | None = None


class _BlockedError(Exception):
    """What it needs has failed, which is told where that happened."""


class Stages:
    """Makes the stages of one build. A stage waits for another where it copies from that."""

    def __init__(
        self, keeper: Keeper, wanted: Wanted, *, telling: Telling, observer: BuildObserver
    ) -> None:
        self._keeper = keeper
        self._wanted = wanted
        self.telling = telling
        self._observer = observer
        self._failures: list[tuple[int, Exception]] = []
        """With the number of the stage, in the order of time."""
        self._ended = anyio.Event()
        self._on_failure = anyio.CancelScope()

    @asynccontextmanager
    async def built(self, stage: ast.Stage) -> AsyncIterator[Finished]:
        """The outermost stage's result; nothing that it was made of is deleted in the block.

        The first failure cancels the other stages and is raised; with `keep_going` what does not
        depend on it is made first, and several are raised as StagesFailed.
        """
        root = _planned(stage, {}, telling=self.telling)
        nodes = _in_order(root)
        for number, own in enumerate(turns(node.stage for node in nodes)):
            nodes[number].number, nodes[number].turns = number, own
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            with self._on_failure:
                if self._wanted.side_by_side:
                    await _announce(root)
                    for node in nodes:
                        tasks.start_soon(self._make, node)
                    for node in nodes:
                        await node.done.wait()
                else:
                    await self._make_in_turn(root, tasks)
            if root.result is None or self._failures:
                tasks.cancel_scope.cancel()
            else:
                try:
                    yield root.result
                except Exception as error:  # noqa: BLE001 - raised again outside the task group
                    failure = error
                self._ended.set()
        if failure is not None:
            raise failure
        if self._failures:
            raise self._failure()

    def _failure(self) -> Exception:
        # What failed by itself counts more than what was not begun.
        failures = [each for each in self._failures if not _is_drained(each[1])]
        if not failures:
            return self._failures[0][1]
        first = failures[0][1]
        in_order = [error for _, error in sorted(failures, key=lambda each: each[0])]
        ours = [error for error in in_order if isinstance(error, ObuilderError)]
        if self._wanted.keep_going and len(ours) == len(in_order) > 1:
            return StagesFailed(tuple(ours))
        return first

    async def _make_in_turn(self, node: _Node, tasks: anyio.abc.TaskGroup) -> None:
        if node.name is not None:
            await node.telling.stage_started(node.name)
        for child in node.children:
            await self._make_in_turn(child, tasks)
        tasks.start_soon(self._make, node)
        await node.done.wait()

    async def _make(self, node: _Node) -> None:
        async with AsyncExitStack() as holding:
            try:
                result = await self._made(node, holding)
                for child in node.children:
                    await _result_of(child)
                node.result = result
                if node.name is not None:
                    await node.telling.stage_finished(node.name, result.id)
            except _BlockedError:
                pass
            except Exception as error:  # noqa: BLE001 - raised again by `built`
                await self._fail(node, error)
            for turn in node.turns:
                if turn.leader == node.number:
                    turn.done.set()
            node.done.set()
            if node.result is not None:
                await self._ended.wait()

    async def _fail(self, node: _Node, error: Exception) -> None:
        self._failures.append((node.number, error))
        try:
            if isinstance(error, ObuilderError):  # else it may be the client's own
                await node.telling.stage_failed(error)
        except Exception as another:  # noqa: BLE001 - raised again by `built`
            self._failures.append((node.number, another))
        # Where a builder drains, what runs in other stages shall end well.
        if not (self._wanted.keep_going or _is_drained(error)):
            self._on_failure.cancel()

    async def _made(self, node: _Node, holding: AsyncExitStack) -> Finished:
        done = await self._base(node, holding)
        env = await anyio.to_thread.run_sync(read_env, done.path / "env")
        state = Context(shell=self._wanted.shell, env=env)
        for op, turn in zip(node.stage.ops, node.turns[1:], strict=True):
            await node.telling.op_started(op, state.workdir)
            step = await self._step(done.id, state, op, node=node)
            if step is not None:
                done = await self._advance(step, node, holding, turn=turn)
            state = state.after(op)
        return done

    async def _base(self, node: _Node, holding: AsyncExitStack) -> Finished:
        text = node.stage.from_
        await node.telling.base_started(text)
        step = ImportStep(text=text, context=self._wanted.fetch)
        done = await self._advance(step, node, holding, turn=node.turns[0])
        wanted = self._wanted.fetch.platform
        record = await self._keeper.record(done.id, done.path)
        if record and record.platform and not same_platform(record.platform, wanted):
            raise BuildError(
                f"the base {text} in this store is for {record.platform}, wanted is {wanted}",
                code="base.platform",
                hint=f"use another store for {wanted}, or remove it: obuilder delete {done.id}",
            )
        return done

    async def _advance(
        self, step: Step, node: _Node, holding: AsyncExitStack, *, turn: Turn
    ) -> Finished:
        await node.telling.step_started(step.id, step.kind)
        if turn.leader != node.number:
            await turn.done.wait()
            return await self._obtained(step, node, holding)
        try:
            return await self._obtained(step, node, holding)
        finally:
            turn.done.set()

    async def _obtained(self, step: Step, node: _Node, holding: AsyncExitStack) -> Finished:
        async with self._observer.step(step.id, step.kind) as observed, AsyncExitStack() as taken:
            outcome = await taken.enter_async_context(self._keeper.result(step, node.telling.piece))
            observed.cached = outcome.cached
            # Only now the base's is let go: the chain is never unprotected.
            await holding.aclose()
            holding.push_async_exit(taken.pop_all())
        await node.telling.step_finished(step.id, cached=outcome.cached)
        return Finished(id=step.id, path=outcome.path)

    async def _step(self, base: Id, state: Context, op: ast.Op, *, node: _Node) -> Step | None:
        match op:
            case ast.Run():
                return run_step(base, state, op, secrets=self._wanted.secrets)
            case ast.Copy(from_=None):
                if self._wanted.source is None:
                    raise SourceError(
                        "this build has no source directory to copy from", code="source.none"
                    )
                return await copy_step(base, state, op, source=self._wanted.source)
            case ast.Copy(from_=str(name)):
                other = node.scope.get(name)
                if other is None:  # a parsed spec has none such; a program's may
                    raise BuildError(
                        f"there is no finished stage {name!r} here", code="stage.unknown"
                    )
                source = (await _result_of(other)).path / "rootfs"
                return await copy_step(base, state, op, source=source)
        return None


def _planned(
    stage: ast.Stage, scope: Mapping[str, _Node], *, telling: Telling, name: str | None = None
) -> _Node:
    """A stage and those in it; each sees what comes before it, also around it."""
    known = dict(scope)
    children = []
    for child_name, child in stage.builds:
        inner = telling.inside(child_name)
        known[child_name] = _planned(child, known, telling=inner, name=child_name)
        children.append(known[child_name])
    return _Node(stage=stage, telling=telling, name=name, children=children, scope=known)


async def _announce(node: _Node) -> None:
    # In the spec's order, before anything else: it is the order for who prints them.
    if node.name is not None:
        await node.telling.stage_started(node.name)
    for child in node.children:
        await _announce(child)


def _in_order(node: _Node) -> list[_Node]:
    """As they would be made in turn."""
    return [*(each for child in node.children for each in _in_order(child)), node]


def _is_drained(error: Exception) -> bool:
    return isinstance(error, BuildError) and error.code == "build.drained"


async def _result_of(node: _Node) -> Finished:
    await node.done.wait()
    if node.result is None:
        raise _BlockedError
    return node.result
