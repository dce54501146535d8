"""Steps that another process makes: followed live, errors shared, taken over if it dies."""

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from support.builds import Call, Events, Parts, Script, ScriptedSandbox, open_parts, stage

from obuilder import locks
from obuilder._core import inotify
from obuilder.errors import BuildError, CommandFailed, SandboxError
from obuilder.events import Waiting
from obuilder.types import ROOT

pytestmark = pytest.mark.anyio

# The base has a log of its own, which a clone begins with.
SPEC = stage("((from b) (run (shell first)) (run (shell slow)))")
BEGUN = b"first\nbegun\n"


class Pair:
    """Two builders on one store, as two processes have them; the first makes a slow step."""

    def __init__(self, ending: Callable[[Call], Awaitable[None]] | None = None) -> None:
        self.may_end, self.second_ended = anyio.Event(), anyio.Event()
        self.one, self.two = Events(), Events()
        self.errors: list[BaseException | None] = [None, None]
        self.cancel_first = anyio.CancelScope()
        self._ending = ending
        self.sandboxes = [ScriptedSandbox(scripts={"slow": self._slow}), ScriptedSandbox()]

    async def _slow(self, call: Call) -> None:
        await call.log.output(b"begun\n")
        await self.may_end.wait()
        if self._ending is not None:
            await self._ending(call)
        await call.log.output(b"ended\n")

    async def build(self, number: int, parts: Parts) -> None:
        events = (self.one, self.two)[number]
        try:
            await parts.builder.build(SPEC, events.context())
        except (BuildError, SandboxError) as error:
            self.errors[number] = error

    async def _run_second(self, second: Parts) -> None:
        await self.build(1, second)
        self.second_ended.set()

    @asynccontextmanager
    async def both_running(self, root: Path) -> AsyncIterator[None]:
        """The second has seen what the first, which is held in its step, has printed."""
        async with (
            open_parts(root, sandbox=self.sandboxes[0]) as first,
            open_parts(root, sandbox=self.sandboxes[1]) as second,
        ):
            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:

                    async def run_first() -> None:
                        with self.cancel_first:
                            await self.build(0, first)

                    tasks.start_soon(run_first)
                    await self.one.wait_for(BEGUN)
                    tasks.start_soon(self._run_second, second)
                    await self.two.wait_for(BEGUN)
                    yield


async def test_the_second_sees_the_log_grow_and_takes_the_result(tmp_path: Path) -> None:
    pair = Pair()
    async with pair.both_running(tmp_path / "store"):
        pair.may_end.set()
    assert pair.one.output == pair.two.output == BEGUN + b"ended\n"
    assert pair.one.steps[-1] == (pair.two.steps[-1][0], False)
    assert pair.two.steps[-1][1] is True
    assert pair.sandboxes[1].commands == []


@pytest.mark.parametrize(("refused", "number"), [("__init__", errno.EMFILE), ("add", errno.ENOSPC)])
async def test_without_watches_the_log_is_followed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(inotify.Watch, refused, refuse)
    monkeypatch.setattr(inotify, "_POLL_S", 0.01)
    pair = Pair()
    async with pair.both_running(tmp_path / "store"):  # waits for what it sees of it
        pair.may_end.set()
    assert pair.two.output == BEGUN + b"ended\n"


async def test_a_log_that_cannot_be_followed_is_told_when_the_step_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = anyio.Event()

    def refuse(*_: object) -> None:
        refused.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(inotify.Watch, "add", refuse)
    pair, second = Pair(), Events()
    async with (
        open_parts(tmp_path / "store", sandbox=pair.sandboxes[0]) as one,
        open_parts(tmp_path / "store") as two,
    ):
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pair.build, 0, one)
                await pair.one.wait_for(BEGUN)
                tasks.start_soon(two.builder.build, SPEC, second.context())
                await refused.wait()
                pair.may_end.set()
    assert second.output == pair.one.output


async def test_a_long_log_is_followed_to_its_last_byte(tmp_path: Path) -> None:
    async def write(call: Call) -> None:
        for number in range(2000):
            await call.log.output(b"%d " % number * 200)

    pair = Pair(write)
    async with pair.both_running(tmp_path / "store"):
        pair.may_end.set()
    assert len(pair.one.output) > 1_000_000
    assert pair.two.output == pair.one.output


async def test_the_second_gets_the_error_of_the_first(tmp_path: Path) -> None:
    async def fail(call: Call) -> None:
        await call.log.output(b"oh no\n")
        raise CommandFailed(call.config.argv, 3)

    pair = Pair(fail)
    async with pair.both_running(tmp_path / "store"):
        pair.may_end.set()
    for error in pair.errors:
        assert isinstance(error, CommandFailed)
        assert (error.argv[-1], error.status) == ("slow", 3)
    assert pair.two.output == BEGUN + b"oh no\n"
    assert pair.sandboxes[1].commands == []


async def test_what_lies_in_the_infrastructure_of_the_first_is_not_shared(tmp_path: Path) -> None:
    async def fail(call: Call) -> None:
        raise SandboxError("no memory")

    pair = Pair(fail)
    async with pair.both_running(tmp_path / "store"):
        pair.may_end.set()
        await pair.second_ended.wait()
    assert isinstance(pair.errors[0], SandboxError)
    assert pair.two.notes[-1] == (
        "the process that made this step failed: no memory; it is made again"
    )
    assert pair.two.steps[-1][1] is False


async def test_an_error_of_before_is_not_shared(tmp_path: Path) -> None:
    root, spec = tmp_path / "store", stage('((from b) (run (shell "exit 3")))')
    for _ in range(2):
        async with open_parts(root) as parts:
            with pytest.raises(CommandFailed):
                await parts.builder.build(spec)
            assert parts.sandbox.commands == ["exit 3"]


async def test_who_drains_does_not_begin_to_wait_for_others(tmp_path: Path) -> None:
    pair, seen = Pair(), Events()
    async with pair.both_running(tmp_path / "store"), open_parts(tmp_path / "store") as third:
        third.builder.drain()
        with pytest.raises(BuildError) as caught:
            await third.builder.build(SPEC, seen.context())
        assert caught.value.code == "build.drained"
        pair.may_end.set()
    assert seen.output == b"first\n"  # from the cache
    assert pair.two.output == BEGUN + b"ended\n"


async def test_the_second_makes_the_step_if_the_first_is_cancelled(tmp_path: Path) -> None:
    pair = Pair()
    async with pair.both_running(tmp_path / "store"):
        pair.cancel_first.cancel()
    assert pair.sandboxes[1].commands == ["slow"]
    assert pair.two.output == BEGUN + b"slow\n"
    assert (
        pair.two.notes[-1] == "the process that made this step did not finish it; it is made again"
    )
    assert pair.two.steps[-1][1] is False


async def test_who_follows_one_that_is_cancelled_follows_the_next_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "TELL_AFTER_S", 0.0)
    may_end = anyio.Event()

    async def anew(call: Call) -> None:
        await call.log.output(b"anew, and with more text than the first had printed\n")
        await may_end.wait()
        await call.log.output(b"ended\n")

    pair, third = Pair(), Events()
    pair.sandboxes[1].scripts["slow"] = anew
    sandbox = ScriptedSandbox(scripts={"slow": anew})
    async with (
        open_parts(tmp_path / "store", sandbox=sandbox) as parts,
        pair.both_running(tmp_path / "store"),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(parts.builder.build, SPEC, third.context())
        await third.wait_for(BEGUN)
        pair.cancel_first.cancel()
        for seen in (pair.two, third):
            await seen.wait_for(b"anew")
        may_end.set()
    whole = BEGUN + b"anew, and with more text than the first had printed\nended\n"
    assert [pair.two.output, third.output] == [whole] * 2
    (follower,) = [each for each in (pair.two, third) if each.steps[-1][1]]
    assert (
        follower.notes[-1]
        == "the process that made this step did not finish it; another makes it again"
    )
    told = [event.pid for event in follower.seen if isinstance(event, Waiting)]
    assert told == [os.getpid()] * 2


async def test_a_long_wait_is_told_with_who_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "TELL_AFTER_S", 0.0)
    pair = Pair()
    async with pair.both_running(tmp_path / "store"):
        await pair.two.wait_for_event(Waiting)
        pair.may_end.set()
    (waiting,) = [event for event in pair.two.seen if isinstance(event, Waiting)]
    assert (waiting.what, waiting.pid) == ("the same step", os.getpid())
    assert not [event for event in pair.one.seen if isinstance(event, Waiting)]


async def test_a_wait_for_who_has_saved_it_and_not_told_the_database_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "TELL_AFTER_S", 0.01)
    watched = Events()
    async with open_parts(tmp_path / "store") as parts:
        id = (await parts.builder.build(SPEC)).id
        with anyio.fail_after(60):
            async with (
                anyio.create_task_group() as tasks,
                locks.Locks(parts.store.state_dir / "locks").hold(id),
            ):
                tasks.start_soon(parts.builder.build, SPEC, watched.context())
                await watched.wait_for_event(Waiting)
    (told,) = [event for event in watched.seen if isinstance(event, Waiting)]
    assert (told.what, told.pid) == (f"the saving of {id}", os.getpid())


async def test_a_hundred_clients_of_a_step_elsewhere_use_no_thread_and_leave_alone(
    tmp_path: Path,
) -> None:
    pair = Pair()
    scopes, clients = [anyio.CancelScope() for _ in range(100)], [Events() for _ in range(100)]
    left = [anyio.Event() for _ in range(100)]
    got: list[int] = []
    async with pair.both_running(tmp_path / "store"):
        async with (
            open_parts(tmp_path / "store") as parts,
            anyio.create_task_group() as tasks,
        ):

            async def build(number: int) -> None:
                with scopes[number]:
                    await parts.builder.build(SPEC, clients[number].context())
                    got.append(number)
                left[number].set()

            for number in range(100):
                tasks.start_soon(build, number)
            for each in clients:
                await each.wait_for(BEGUN)
            await anyio.wait_all_tasks_blocked()
            assert anyio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            for number in range(0, 100, 2):
                scopes[number].cancel()
                await left[number].wait()
                assert scopes[number].cancelled_caught
                assert sum(each.is_set() for each in left) == number // 2 + 1
            assert got == []
            pair.may_end.set()
        assert sorted(got) == list(range(1, 100, 2))
    assert {each.output for each in clients[1::2]} == {BEGUN + b"ended\n"}


async def test_a_locked_cache_has_one_user_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "TELL_AFTER_S", 0.0)
    locked = "(cache (c (target /c) (buildkit_options ((sharing locked)))))"
    may_end, begun = anyio.Event(), anyio.Event()
    using = 0

    async def use(call: Call) -> None:
        nonlocal using
        using += 1
        assert using == 1
        begun.set()
        await may_end.wait()
        with (call.config.mounts[0].source / "lines").open("a") as file:
            file.write("line\n")
        using -= 1

    numbers = range(5)
    scripts: dict[str, Script] = {f"use {number}": use for number in numbers}
    watched = Events()
    async with AsyncExitStack() as stack:
        parts = []
        for _ in numbers:
            sandbox = ScriptedSandbox(scripts=scripts)
            opened = open_parts(tmp_path / "store", sandbox=sandbox)
            parts.append(await stack.enter_async_context(opened))
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number in numbers:
                    spec = stage(f'((from b) (run {locked} (shell "use {number}")))')
                    tasks.start_soon(parts[number].builder.build, spec, watched.context())
                await begun.wait()
                await watched.wait_for_event(Waiting)
                may_end.set()
        async with parts[0].store.cache("c", user=ROOT) as cache:
            assert (cache / "lines").read_text() == "line\n" * len(numbers)
    told = [event.what for event in watched.seen if isinstance(event, Waiting)]
    assert "cache 'c'" in told


async def test_a_wait_for_a_cache_that_another_copies_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "TELL_AFTER_S", 0.01)
    watched = Events()
    async with (
        open_parts(tmp_path / "store") as parts,
        anyio.create_task_group() as tasks,
        locks.Locks(parts.store.state_dir / "locks").hold("cache-c"),
    ):
        spec = stage("((from b) (run (cache (c (target /c))) (shell x)))")
        tasks.start_soon(parts.builder.build, spec, watched.context())
        await watched.wait_for_event(Waiting)
    (told,) = [event.what for event in watched.seen if isinstance(event, Waiting)]
    assert told == "cache 'c', which is being copied"


async def test_a_cache_that_is_thrown_away_is_told(tmp_path: Path) -> None:
    both, count = anyio.Event(), 0
    cache = "(cache (c (target /c)))"

    async def together(call: Call) -> None:
        nonlocal count
        count += 1
        if count == 2:
            both.set()
        await both.wait()

    one, two = Events(), Events()
    sandbox = ScriptedSandbox(scripts={"one": together, "two": together})
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for word, events in (("one", one), ("two", two)):
                    spec = stage(f"((from b) (run {cache} (shell {word})))")
                    tasks.start_soon(parts.builder.build, spec, events.context())
    lost = "cache 'c': another was first, what this step put there is thrown away"
    assert sorted([lost in one.notes, lost in two.notes]) == [False, True]
