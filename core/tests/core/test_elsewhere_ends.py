"""Logs of steps that other processes made, when their ends are not as they were followed."""

from pathlib import Path

import anyio
import pytest
from support.builds import Call, Events, Parts, ScriptedSandbox, open_parts, stage

from obuilder._core.build import BuildContext
from obuilder._core.elsewhere import Elsewhere, hold_followed
from obuilder._core.inflight import Log
from obuilder._core.pieces import Piece
from obuilder._core.step_caches import locked_name
from obuilder.errors import CommandFailed, DatabaseError, SandboxError
from obuilder.events import Event, Output
from obuilder.locks import Locks
from obuilder.testing._tools import new_id

pytestmark = pytest.mark.anyio

SPEC = stage("((from b) (run (shell first)) (run (shell slow)))")
CACHE = "(cache (c (target /c) (buildkit_options ((sharing locked)))))"
FAILS = stage(f'((from b) (run (shell first)) (run {CACHE} (shell "exit 3")))')


class Followers:
    """Those of one step."""

    def __init__(self) -> None:
        self.told: list[Piece] = []
        self.logs: list[Log] = []
        self.published = anyio.Event()

    have_left = False

    def tell(self, piece: Piece) -> None:
        self.told.append(piece)

    def publish(self, log: Log) -> None:
        self.logs.append(log)
        self.published.set()


async def test_what_a_failed_step_printed_is_there_for_who_could_not_follow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a process that was stopped meanwhile.
    monkeypatch.setattr(Elsewhere, "follow", lambda _: anyio.sleep_forever())
    first, second = Events(), Events()

    async def build(parts: Parts, seen: Events) -> None:
        with pytest.raises(CommandFailed) as caught:
            await parts.builder.build(FAILS, seen.context())
        assert caught.value.status == 3

    async with open_parts(tmp_path / "store") as one, open_parts(tmp_path / "store") as two:
        locks = Locks(one.store.state_dir / "locks")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks, locks.hold(locked_name("c")):
                tasks.start_soon(build, one, first)
                await first.wait_for(b"first\n")
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(build, two, second)
                await second.wait_for(b"first\n")
                await anyio.wait_all_tasks_blocked()
    assert one.sandbox.commands == ["first", "exit 3"]
    assert two.sandbox.commands == []
    assert second.output == first.output


async def test_what_a_slow_client_has_yet_to_read_is_not_lost_when_the_step_is_made_again(
    tmp_path: Path,
) -> None:
    begun, may_fail = anyio.Event(), anyio.Event()
    reads, may_read, made_again = anyio.Event(), anyio.Event(), anyio.Event()
    got: list[bytes] = []
    whole = b"".join(b"%08d\n" % number * 8192 for number in range(200))

    async def fail(call: Call) -> None:
        await call.log.output(b"begun\n")
        begun.set()
        await may_fail.wait()
        await call.log.output(whole)
        raise SandboxError("no memory")

    async def again(call: Call) -> None:
        await call.log.output(b"again\n")
        made_again.set()

    async def read(event: Event) -> None:
        if isinstance(event, Output):
            got.append(event.data)
            if event.data == b"begun\n":
                reads.set()
                await may_read.wait()

    async def build_first(parts: Parts) -> None:
        with pytest.raises(SandboxError):
            await parts.builder.build(SPEC)

    failing = ScriptedSandbox(scripts={"slow": fail})
    repeating = ScriptedSandbox(scripts={"slow": again})
    async with (
        open_parts(tmp_path / "store", sandbox=failing) as one,
        open_parts(tmp_path / "store", sandbox=repeating) as two,
    ):
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(build_first, one)
                await begun.wait()
                tasks.start_soon(two.builder.build, SPEC, BuildContext(on_event=read))
                await reads.wait()
                may_fail.set()
                await made_again.wait()
                may_read.set()
    assert b"".join(got) == b"first\nbegun\n" + whole + b"again\n"


@pytest.mark.parametrize("end", ["error", "cancel"])
async def test_who_follows_is_not_left_waiting_whatever_ends_the_wait(
    tmp_path: Path, end: str
) -> None:
    followers = Followers()
    read = b""
    async with open_parts(tmp_path / "store") as parts:
        locks = Locks(parts.store.state_dir / "locks")
        id = new_id()

        async def wait(scope: anyio.CancelScope) -> None:
            with scope, pytest.raises(DatabaseError):
                async with hold_followed(locks, id, store=parts.store, followers=followers):
                    raise DatabaseError("it is locked")

        with anyio.fail_after(60):
            async with parts.store.build(id) as directory, anyio.create_task_group() as tasks:
                async with locks.hold(id):
                    (directory / "log").write_bytes(b"begun\n")
                    locks.mark(id)
                    scope = anyio.CancelScope()
                    tasks.start_soon(wait, scope)
                    await followers.published.wait()
                    if end == "cancel":
                        scope.cancel()
                async for piece in followers.logs[0].follow():
                    assert isinstance(piece, bytes)
                    read += piece
    assert read == b"begun\n"


async def test_a_log_that_begins_as_anothers_does_is_not_taken_for_its_end(tmp_path: Path) -> None:
    followers = Followers()
    async with open_parts(tmp_path / "store") as parts:
        done = await parts.builder.build(SPEC)
        locks = Locks(parts.store.state_dir / "locks")
        elsewhere = Elsewhere(locks, done.id, store=parts.store, followers=followers)
        with anyio.fail_after(60):
            async with locks.hold(done.id), anyio.create_task_group() as tasks:
                # Somebody who makes it, and whose log is the same so far.
                locks.mark(done.id)
                tasks.start_soon(elsewhere.follow)
                await followers.published.wait()
                tasks.cancel_scope.cancel()
        assert not await elsewhere.saved(done.path)
    assert followers.told == [
        "the process that made this step did not finish it; another has made it"
    ]


async def test_who_has_the_lock_only_to_look_is_not_taken_for_a_maker(tmp_path: Path) -> None:
    seen = Events()
    async with open_parts(tmp_path / "store") as parts:
        id = (await parts.builder.build(SPEC)).id
        await parts.builder.delete(id)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                held = Locks(parts.store.state_dir / "locks")
                # As a process does that opens the store, and one that prunes it.
                with held.try_hold(id) as free:
                    assert free
                    tasks.start_soon(parts.builder.build, SPEC, seen.context())
                    await seen.wait_for(b"first\n")
                    await anyio.wait_all_tasks_blocked()
    assert seen.steps[-1] == (id, False)
    assert seen.notes == []
