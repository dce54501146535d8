"""Steps that builds share, at the moments between a command's end and the database's row.

The scenarios of sharing in one process, and where each is tried (the others than these with
steps that a test holds, in `test_inflight.py`):

- two share a step, both see its log live: `test_two_clients_share_one_execution`
- it fails for both: `test_an_error_reaches_both`
- it fails as the second attaches: `test_who_attaches_just_as_the_step_fails_gets_log_and_error`
  and `test_who_comes_before_a_failed_step_is_discarded_gets_its_log_and_error`
- one of two cancels: `test_one_of_two_that_cancels_leaves_the_step_to_the_other`
  (the one that began it: `test_a_step_can_start_programs_when_the_client_that_began_it_has_left`)
- both cancel: `test_the_last_follower_leaving_cancels_the_step_and_leaves_with_it`
- one cancels a failed build whose replacement runs:
  `test_who_leaves_a_failed_step_does_not_touch_its_replacement`
- one comes while it is being cancelled:
  `test_a_newcomer_waits_for_the_cancelled_step_and_starts_it_again`
- a follower after the rename: `test_who_comes_after_the_rename_gets_the_whole_log`
- deletion, then rebuild: `test_a_build_waits_for_the_deletion_of_its_step_and_makes_it_anew`
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from support.builds import Call, Events, Parts, open_parts, stage

from obuilder import process
from obuilder._core.build import BuildResult
from obuilder.errors import CommandFailed
from obuilder.types import Id
from obuilder_store_rsync import RsyncStore

pytestmark = pytest.mark.anyio

LIMIT_S = 60


@dataclass
class Hold:
    """Holds whoever reaches it, until it may go on."""

    reached: anyio.Event = field(default_factory=anyio.Event)
    may_go: anyio.Event = field(default_factory=anyio.Event)

    async def pause(self) -> None:
        self.reached.set()
        # Its own limit: a deletion is shielded from the test's.
        with anyio.fail_after(LIMIT_S):
            await self.may_go.wait()


class HeldStore(RsyncStore):
    """Pauses before a failed step is discarded, after a result is renamed, before one is deleted.

    `held` names the id and the moment; None: nowhere.
    """

    held: tuple[Id, str] | None = None
    hold: Hold

    async def _at(self, id: Id, moment: str) -> None:
        if self.held == (id, moment):
            self.held = None
            await self.hold.pause()

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        async with super().build(id, base=base) as directory:
            try:
                yield directory
            except CommandFailed:
                await self._at(id, "failed")
                raise
        await self._at(id, "renamed")

    async def delete(self, id: Id) -> None:
        await self._at(id, "deleted")
        await super().delete(id)


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[tuple[Parts, HeldStore]]:
    async with open_parts(root, kind=HeldStore) as parts:
        store: HeldStore = parts.store
        store.hold = Hold()
        with anyio.fail_after(LIMIT_S):
            yield parts, store


@dataclass
class Client:
    """A build in a task of its own."""

    text: str
    events: Events = field(default_factory=Events)
    result: BuildResult | None = None
    error: CommandFailed | None = None

    async def run(self, parts: Parts) -> None:
        try:
            self.result = await parts.builder.build(stage(self.text), self.events.context())
        except CommandFailed as error:
            self.error = error


async def last_id(parts: Parts, text: str) -> Id:
    """The id of a spec's last step, which is made for that and deleted again."""
    result = await parts.builder.build(stage(text))
    await parts.builder.delete(result.id)
    parts.sandbox.calls.clear()
    return result.id


async def test_who_comes_before_a_failed_step_is_discarded_gets_its_log_and_error(
    tmp_path: Path,
) -> None:
    text = '((from b) (run (shell "exit 3")))'
    async with opened(tmp_path / "store") as (parts, store):
        with pytest.raises(CommandFailed):
            await parts.builder.build(stage(text))
        store.held = (parts.sandbox.calls.pop().id, "failed")
        first, second, later = Client(text), Client(text), Client(text)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.run, parts)
            await store.hold.reached.wait()
            tasks.start_soon(second.run, parts)
            # All that the command had printed, though no file of the step is open any more.
            await second.events.wait_for(b"about to fail\n")
            assert second.error is None
            store.hold.may_go.set()
        assert first.error is second.error is not None
        assert first.events.output == second.events.output == b"about to fail\n"
        assert parts.sandbox.commands == ["exit 3"]
        await later.run(parts)
        assert parts.sandbox.commands == ["exit 3", "exit 3"]
        assert parts.temporary() == []


async def test_who_comes_after_the_rename_gets_the_whole_log(tmp_path: Path) -> None:
    text = "((from b) (run (shell step)))"
    async with opened(tmp_path / "store") as (parts, store):
        id = await last_id(parts, text)
        store.held = (id, "renamed")
        first, second = Client(text), Client(text)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.run, parts)
            await store.hold.reached.wait()
            assert parts.temporary() == []
            assert (store.root / "result" / id / "log").read_bytes() == b"step\n"
            tasks.start_soon(second.run, parts)
            await second.events.wait_for(b"step\n")
            # The database does not know of it yet.
            assert first.result is second.result is None
            store.hold.may_go.set()
        assert first.result == second.result is not None
        assert first.events.output == second.events.output == b"step\n"
        assert first.events.steps == second.events.steps == [first.events.steps[0], (id, False)]
        assert parts.sandbox.commands == ["step"]


async def test_a_step_can_start_programs_when_the_client_that_began_it_has_left(
    tmp_path: Path,
) -> None:
    begun, may_end = anyio.Event(), anyio.Event()

    async def starts_a_program(call: Call) -> None:
        await call.log.output(b"begun\n")
        begun.set()
        await may_end.wait()
        printed = await process.run(["ls", "-l", "/proc/self/fd"])
        await call.log.output(printed.stdout)

    text = "((from b) (run (shell step)))"
    async with opened(tmp_path / "store") as (parts, _):
        parts.sandbox.scripts["step"] = starts_a_program
        first, second = Client(text), Client(text)
        async with anyio.create_task_group() as staying:
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(first.run, parts)
                await begun.wait()
                staying.start_soon(second.run, parts)
                await second.events.wait_for(b"begun\n")
                leaving.cancel_scope.cancel()
            # They get the numbers of descriptors that the first had.
            others = [os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC) for _ in range(5)]
            may_end.set()
        for each in others:
            os.close(each)
        assert first.result is None
        assert second.result
        printed = second.events.output
        # What this step has locked for itself, and nothing else of this process.
        assert printed.count(b"/locks/") == 2
        assert f"{tmp_path}\n".encode() not in printed


async def test_a_build_waits_for_the_deletion_of_its_step_and_makes_it_anew(
    tmp_path: Path,
) -> None:
    text = "((from b) (run (shell step)))"
    async with opened(tmp_path / "store") as (parts, store):
        made = await parts.builder.build(stage(text))
        (made.path / "rootfs" / "old").touch()
        store.held = (made.id, "deleted")
        client = Client(text)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.builder.delete, made.id)
            await store.hold.reached.wait()
            tasks.start_soon(client.run, parts)
            await anyio.wait_all_tasks_blocked()
            assert client.events.output == b""
            store.hold.may_go.set()
        assert client.result == made
        assert client.events.steps[-1] == (made.id, False)
        assert client.events.output == b"step\n"
        assert not (made.path / "rootfs" / "old").exists()
        assert (await parts.builder.counters()).items == 2
        again = Client(text)
        await again.run(parts)
        assert again.events.steps[-1] == (made.id, True)
        assert parts.sandbox.commands == ["step", "step"]
