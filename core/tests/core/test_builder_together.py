"""Builds at the same time: shared steps, leaving, cancelling, closing, errors of the block."""

import os
from functools import partial
from pathlib import Path

import anyio
import pytest
from support.builds import (
    Call,
    Events,
    Script,
    ScriptedSandbox,
    open_parts,
    stage,
)

from obuilder._core.build import BuildContext, Builder
from obuilder.errors import BuildError, CommandFailed
from obuilder.events import Event
from obuilder.locks import Locks, use_lock

pytestmark = pytest.mark.anyio

FIRST = "((from b) (run (shell first)))"


async def test_two_builds_share_the_steps_they_have_in_common(tmp_path: Path) -> None:
    both, may_end = anyio.Event(), anyio.Event()

    async def slow(call: Call) -> None:
        await call.log.output(b"begun\n")
        await may_end.wait()
        await call.log.output(b"ended\n")

    sandbox = ScriptedSandbox(scripts={"slow": slow})
    one, two = Events(), Events()
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for seen in (one, two):
                    spec = stage("((from b) (run (shell slow)))")
                    tasks.start_soon(parts.builder.build, spec, seen.context())
                await one.wait_for(b"begun")
                await two.wait_for(b"begun")
                both.set()
                may_end.set()
        assert parts.sandbox.commands == ["slow"]
        assert parts.fetcher.fetched == ["b"]
    assert one.output == two.output == b"begun\nended\n"
    assert one.steps == two.steps


async def test_a_client_that_cancels_leaves_the_step_to_the_other(tmp_path: Path) -> None:
    may_end = anyio.Event()

    async def slow(call: Call) -> None:
        await call.log.output(b"begun\n")
        await may_end.wait()

    sandbox = ScriptedSandbox(scripts={"slow": slow})
    spec = stage("((from b) (run (shell slow)))")
    one, two = Events(), Events()
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as staying, anyio.create_task_group() as leaving:
                leaving.start_soon(parts.builder.build, spec, one.context())
                staying.start_soon(parts.builder.build, spec, two.context())
                await one.wait_for(b"begun")
                await two.wait_for(b"begun")
                leaving.cancel_scope.cancel()
                may_end.set()
        assert parts.sandbox.commands == ["slow"]
    assert len(one.steps) == 1
    assert len(two.steps) == 2


async def test_a_cancelled_step_leaves_nothing_and_can_be_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its log can be of any length, and nobody is left to read a copy.
    monkeypatch.setattr(os, "sendfile", lambda *args: pytest.fail(f"copied {args}"))
    cancelled = anyio.Event()

    async def block(call: Call) -> None:
        (call.rootfs / "half").touch()
        await call.log.output(b"begun\n")
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    sandbox = ScriptedSandbox(scripts={"block": block})
    spec = stage("((from b) (run (cache (c (target /c))) (shell block)))")
    seen = Events()
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(parts.builder.build, spec, seen.context())
                await seen.wait_for(b"begun")
                tasks.cancel_scope.cancel()
            await cancelled.wait()
            del sandbox.scripts["block"]
            result = await parts.builder.build(spec)
        assert not (result.path / "rootfs" / "half").exists()
        assert parts.temporary() == []
        assert not parts.failed.exists()


async def test_closing_the_builder_ends_its_steps(tmp_path: Path) -> None:
    ended: list[str] = []

    async def block(call: Call) -> None:
        await call.log.output(b"begun\n")
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("step")

    sandbox = ScriptedSandbox(scripts={"block": block})
    seen = Events()
    errors: list[BuildError] = []

    async with anyio.create_task_group() as clients:
        async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:

            async def client() -> None:
                try:
                    await parts.builder.build(
                        stage("((from b) (run (shell block)))"), seen.context()
                    )
                except BuildError as error:
                    errors.append(error)

            clients.start_soon(client)
            await seen.wait_for(b"begun")
        assert ended == ["step"]
        assert parts.temporary() == []
        assert os.listdir(parts.store.state_dir / "db") == ["db.sqlite"]
    assert [error.code for error in errors] == ["build.cancelled"]
    assert os.listdir(parts.store.state_dir / "locks") == []


@pytest.mark.parametrize("number", range(5))
async def test_a_build_on_its_way_when_its_builder_closes_is_told_so(
    tmp_path: Path, number: int
) -> None:
    closed, arrived = anyio.Event(), anyio.Event()
    events: list[Event] = []
    errors: list[BuildError] = []

    async def hold(event: Event) -> None:
        events.append(event)
        if len(events) == number + 1:
            arrived.set()
            await closed.wait()

    async def client(builder: Builder) -> None:
        with pytest.raises(BuildError) as caught:
            await builder.build(stage(FIRST), BuildContext(on_event=hold))
        errors.append(caught.value)

    async with open_parts(tmp_path / "store") as parts:
        await parts.builder.build(stage(FIRST))
        with anyio.fail_after(60):
            async with anyio.create_task_group() as clients:
                async with Builder(parts.store, parts.sandbox, parts.fetcher) as builder:
                    clients.start_soon(client, builder)
                    await arrived.wait()
                closed.set()
    assert {error.code for error in errors} == {"build.closed"}


async def test_a_builder_says_that_it_is_not_open_and_can_be_opened_again(tmp_path: Path) -> None:
    async with open_parts(tmp_path / "store") as parts:
        builder = Builder(parts.store, parts.sandbox, parts.fetcher)
        for _ in range(2):
            for use in (builder.counters, builder.clean, partial(builder.build, stage(FIRST))):
                with pytest.raises(BuildError) as caught:
                    await use()
                assert caught.value.code == "build.closed"
            async with builder:
                id = (await builder.build(stage(FIRST))).id
            with pytest.raises(BuildError) as caught:
                await parts.builder.push(id, builder)
            assert caught.value.code == "build.closed"
        builder.drain()  # at any moment: there is nothing left to begin
    with pytest.raises(BuildError):
        Builder(parts.store, parts.sandbox, parts.fetcher).drain()


class BodyError(Exception):
    """An error of the program that uses the builder."""


async def test_an_error_in_the_block_comes_out_as_it_is(tmp_path: Path) -> None:
    raised = BodyError()
    with pytest.raises(BodyError) as caught:  # noqa: PT012 - what fails is the builder's block
        async with open_parts(tmp_path / "store") as parts:
            await parts.builder.build(stage("((from b))"))
            raise raised
    assert caught.value is raised
    assert os.listdir(tmp_path / "store/state/db") == ["db.sqlite"]


async def test_a_failed_build_in_the_block_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed):
        async with open_parts(tmp_path / "store") as parts:
            await parts.builder.build(stage('((from b) (run (shell "exit 1")))'))


async def test_a_cancelled_block_is_a_cancelled_block(tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with open_parts(tmp_path / "store"):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert os.listdir(tmp_path / "store/state/db") == ["db.sqlite"]


async def test_a_step_that_is_still_ending_keeps_its_base(tmp_path: Path) -> None:
    ending, may_end = anyio.Event(), anyio.Event()

    async def end_slowly(call: Call) -> None:
        await call.log.output(b"begun\n")
        try:
            await anyio.sleep_forever()
        finally:
            ending.set()
            with anyio.CancelScope(shield=True):
                await may_end.wait()

    sandbox = ScriptedSandbox(scripts={"slow": end_slowly})
    seen = Events()
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                left = anyio.Event()

                async def client() -> None:
                    try:
                        await parts.builder.build(
                            stage("((from b) (run (shell slow)))"), seen.context()
                        )
                    finally:
                        left.set()

                tasks.start_soon(client)
                await seen.wait_for(b"begun")
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await ending.wait()
                    removed = await parts.builder.clean()
                    # What is delivered to the client is that the step has ended.
                    await anyio.wait_all_tasks_blocked()
                    left_early = left.is_set()
                    may_end.set()
            assert left.is_set()
            assert not left_early
            assert parts.temporary() == []
    assert removed == 0


async def test_two_builders_on_one_store_make_a_step_once(tmp_path: Path) -> None:
    may_end = anyio.Event()

    async def slow(call: Call) -> None:
        await call.log.output(b"begun\n")
        await may_end.wait()
        await call.log.output(b"ended\n")

    spec = stage("((from b) (run (shell slow)) (run (shell more)))")
    one, two = Events(), Events()
    sandboxes = [ScriptedSandbox(scripts={"slow": slow}) for _ in range(2)]
    async with (
        open_parts(tmp_path / "store", sandbox=sandboxes[0]) as first,
        open_parts(tmp_path / "store", sandbox=sandboxes[1]) as second,
    ):
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(first.builder.build, spec, one.context())
                await one.wait_for(b"begun")
                tasks.start_soon(second.builder.build, spec, two.context())
                await anyio.wait_all_tasks_blocked()
                may_end.set()
        assert (await second.builder.counters()).items == 3
    assert sorted(sandboxes[0].commands + sandboxes[1].commands) == ["more", "slow"]
    assert one.output == two.output == b"begun\nended\nmore\n"
    assert [id for id, _ in one.steps] == [id for id, _ in two.steps]
    assert dict(two.steps)[one.steps[1][0]] is True


async def test_a_build_does_not_wait_for_another_processs_next_step(tmp_path: Path) -> None:
    may_end, next_begun, may_end_next = anyio.Event(), anyio.Event(), anyio.Event()

    async def shared(call: Call) -> None:
        await call.log.output(b"begun\n")
        await may_end.wait()

    async def long(call: Call) -> None:
        next_begun.set()
        await may_end_next.wait()

    one, two = Events(), Events()
    scripts: dict[str, Script] = {"shared": shared, "long": long}
    async with (
        open_parts(tmp_path / "store", sandbox=ScriptedSandbox(scripts=scripts)) as first,
        open_parts(tmp_path / "store") as second,
    ):
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(
                    first.builder.build,
                    stage("((from b) (run (shell shared)) (run (shell long)))"),
                    one.context(),
                )
                await one.wait_for(b"begun")
                begun = anyio.Event()

                async def other() -> None:
                    begun.set()
                    spec = stage("((from b) (run (shell shared)) (run (shell quick)))")
                    await second.builder.build(spec, two.context())
                    # Only now may the first go on: its next step has not been waited for.
                    may_end_next.set()

                tasks.start_soon(other)
                await begun.wait()
                await anyio.wait_all_tasks_blocked()
                may_end.set()
                await next_begun.wait()
    assert second.sandbox.commands == ["quick"]
    assert two.output == b"begun\nquick\n"


async def test_a_result_is_protected_from_before_it_is_made(tmp_path: Path) -> None:
    free: list[bool] = []

    async def look(call: Call) -> None:
        with Locks(tmp_path / "store/state/locks").try_hold(use_lock(call.config.id)) as unused:
            free.append(unused)

    async with open_parts(
        tmp_path / "store", sandbox=ScriptedSandbox(scripts={"look": look})
    ) as parts:
        await parts.builder.build(stage("((from b) (run (shell look)))"))
    assert free == [False]
