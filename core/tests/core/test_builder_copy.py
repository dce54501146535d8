"""A copy as a step: receivers that fail, hang or do not read, and many at once."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from support.builds import (
    Call,
    Events,
    ScriptedSandbox,
    descriptors,
    open_parts,
    stage,
)

from obuilder import events
from obuilder._core.build import BuildContext
from obuilder._core.steps import CopyStep
from obuilder.errors import BuildError, CommandFailed, SourceError, StoreError
from obuilder.spec import ast

pytestmark = pytest.mark.anyio


async def test_a_copy_needs_a_source_directory_and_a_known_stage(tmp_path: Path) -> None:
    async with open_parts(tmp_path / "store") as parts:
        spec = stage("((from b) (copy (src f) (dst /x)))")
        for directory in (None, tmp_path / "nowhere"):
            with pytest.raises(SourceError) as caught:
                await parts.builder.build(spec, BuildContext(src_dir=directory))
            assert caught.value.code == "source.none"
        unknown = ast.Stage(from_="b", ops=(ast.Copy(src=("f",), dst="/x", from_="who"),))
        with pytest.raises(BuildError, match="who") as failed:
            await parts.builder.build(unknown)
        assert failed.value.code == "stage.unknown"


async def test_a_copy_whose_receiver_fails_reports_the_receivers_error(tmp_path: Path) -> None:
    async def die(call: Call) -> None:
        raise CommandFailed(call.config.argv, 42)

    source = tmp_path / "src"
    source.mkdir()
    (source / "big").write_bytes(bytes(4 << 20))
    sandbox = ScriptedSandbox(scripts={"-": die})
    spec = stage("((from b) (copy (src big) (dst /big)))")
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        await parts.builder.build(stage("((from b))"))
        before = descriptors()
        with pytest.raises(CommandFailed) as caught:
            await parts.builder.build(spec, BuildContext(src_dir=source))
        assert caught.value.status == 42
        assert len(descriptors()) == len(before)


async def test_a_receiver_that_does_not_read_is_an_error(tmp_path: Path) -> None:
    async def ignore(call: Call) -> None:
        await call.log.output(b"not reading\n")

    source = tmp_path / "src"
    source.mkdir()
    (source / "big").write_bytes(bytes(4 << 20))
    sandbox = ScriptedSandbox(scripts={"-": ignore})
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        with pytest.raises(StoreError, match="cannot send to the sandbox"):
            await parts.builder.build(
                stage("((from b) (copy (src big) (dst /big)))"), BuildContext(src_dir=source)
            )


async def test_a_copy_can_be_cancelled_while_its_sender_waits(tmp_path: Path) -> None:
    async def hang(call: Call) -> None:
        await call.log.output(b"receiving\n")
        await anyio.sleep_forever()

    source = tmp_path / "src"
    source.mkdir()
    (source / "big").write_bytes(bytes(4 << 20))
    seen = Events()
    sandbox = ScriptedSandbox(scripts={"-": hang})
    spec = stage("((from b) (copy (src big) (dst /big)))")
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        await parts.builder.build(stage("((from b))"))
        before = descriptors()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(parts.builder.build, spec, seen.context(src=source))
                await seen.wait_for(b"receiving")
                tasks.cancel_scope.cancel()
            # The same again, to its end: so the cancelled one has ended.
            del sandbox.scripts["-"]
            await parts.builder.build(spec, BuildContext(src_dir=source))
        assert len(descriptors()) == len(before)


async def test_a_copy_that_is_cancelled_is_not_told_that_its_stream_ended_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiving, told = anyio.Event(), list[Exception]()

    async def hang(call: Call) -> None:
        receiving.set()
        await anyio.sleep_forever()

    async def make(self: CopyStep, *args: Any) -> Any:
        try:
            return await real(self, *args)
        except Exception as error:
            told.append(error)
            raise

    real = CopyStep.make
    monkeypatch.setattr(CopyStep, "make", make)
    source = tmp_path / "src"
    source.mkdir()
    (source / "big").write_bytes(bytes(4 << 20))
    sandbox = ScriptedSandbox(scripts={"-": hang})
    spec = stage("((from b) (copy (src big) (dst /big)))")
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.builder.build, spec, BuildContext(src_dir=source))
            await receiving.wait()
            tasks.cancel_scope.cancel()
        assert parts.temporary() == []
    assert told == []


async def test_more_copies_at_once_than_there_are_threads_end(tmp_path: Path) -> None:
    """Each sender holds a thread and waits for its receiver, which needs one to begin."""
    many = 45

    async def receive(call: Call) -> None:
        await anyio.to_thread.run_sync(lambda: None)
        raise CommandFailed(call.config.argv, 1)

    source = tmp_path / "src"
    source.mkdir()
    for number in range(many):
        (source / f"f{number}").write_bytes(bytes(300_000 + number))
    sandbox = ScriptedSandbox(scripts={"-": receive})
    failed: list[CommandFailed] = []
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        await parts.builder.build(stage("((from b))"))

        async def client(number: int) -> None:
            spec = stage(f"((from b) (copy (src f{number}) (dst /x)))")
            try:
                await parts.builder.build(spec, BuildContext(src_dir=source))
            except CommandFailed as error:
                failed.append(error)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number in range(many):
                    tasks.start_soon(client, number)
    assert len(failed) == many


async def test_hashing_a_source_stops_when_the_build_is_cancelled(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 40)  # hours of hashing
    reached = anyio.Event()

    def on_event(event: events.Event) -> None:
        if isinstance(event, events.OpStarted):
            reached.set()

    async with open_parts(tmp_path / "store") as parts:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                context = BuildContext(src_dir=source, on_event=on_event)
                spec = stage("((from b) (copy (src sparse) (dst /x)))")
                tasks.start_soon(parts.builder.build, spec, context)
                await reached.wait()
                tasks.cancel_scope.cancel()
