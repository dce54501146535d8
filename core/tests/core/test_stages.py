"""Stages side by side: what waits for what, how many steps at once, failures, the output."""

import io
from pathlib import Path

import anyio
import pytest
from support.builds import Call, Events, Script, ScriptedSandbox, open_parts, stage

from obuilder import events
from obuilder._cli.output import Output
from obuilder._cli.plain import PlainRenderer
from obuilder._core.build import BuildContext
from obuilder.errors import BuildError, CommandFailed, StagesFailed
from obuilder.spec.ast import Stage

pytestmark = pytest.mark.anyio

# Each of a, b and c, and the last of all, has a step of its own; d copies from a alone.
SPEC = """
((build a ((from x) (run (shell a))))
 (build b ((from x) (run (shell b))))
 (build c ((from x) (run (shell c))))
 (build d ((from x) (copy (from (build a)) (src ran) (dst /d)) (run (shell d))))
 (from x) (run (shell own)) (copy (from (build d)) (src ran) (dst /last)))
"""


class Held:
    """Commands that are held until they are let go, each by its name."""

    def __init__(self, *names: str) -> None:
        self.begun = {name: anyio.Event() for name in names}
        self.may_end = {name: anyio.Event() for name in names}
        self.running = 0
        self.most = 0
        self._next: list[str] = []
        self._changed = anyio.Event()

    async def next(self) -> str:
        """The name of the next command that begins."""
        while not self._next:
            await self._changed.wait()
        return self._next.pop(0)

    def scripts(self) -> dict[str, Script]:
        return dict.fromkeys(self.begun, self._hold)

    async def _hold(self, call: Call) -> None:
        name = call.config.argv[-1]
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun[name].set()
        self._next.append(name)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
        try:
            await self.may_end[name].wait()
        finally:
            self.running -= 1
        await call.log.output(f"{name}\n".encode())
        (call.rootfs / "ran").write_text(f"{name}\n")


async def test_a_stage_waits_for_just_the_one_that_it_copies_from(tmp_path: Path) -> None:
    held = Held("a", "b", "c", "d", "own")
    sandbox = ScriptedSandbox(scripts=held.scripts())
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(parts.builder.build, stage(SPEC))
                for name in ("a", "b", "c", "own"):
                    await held.begun[name].wait()
                await anyio.wait_all_tasks_blocked()
                assert not held.begun["d"].is_set()
                held.may_end["a"].set()
                await held.begun["d"].wait()
                for may_end in held.may_end.values():
                    may_end.set()


@pytest.mark.parametrize("jobs", [1, 2, 3])
async def test_no_more_steps_run_at_once_than_there_are_jobs(tmp_path: Path, jobs: int) -> None:
    names = ("a", "b", "c", "d", "own")
    held = Held(*names)
    sandbox = ScriptedSandbox(scripts=held.scripts())
    async with open_parts(tmp_path / "store", sandbox=sandbox, jobs=jobs) as parts:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(parts.builder.build, stage(SPEC))
                waiting: set[str] = set(names)
                running: list[str] = []
                while waiting or running:
                    # As many as there may be, but for d, which waits for a.
                    while (
                        waiting
                        and len(running) < jobs
                        and not (waiting == {"d"} and "a" in running)
                    ):
                        running.append(await held.next())
                        waiting.remove(running[-1])
                    done = "a" if "a" in running else running[0]
                    running.remove(done)
                    held.may_end[done].set()
    assert held.most == jobs


async def printed(store: Path, spec: Stage, *, jobs: int) -> bytes:
    out = io.BytesIO()
    renderer = PlainRenderer(Output(out), keep_going=False)
    async with open_parts(store, jobs=jobs) as parts:
        await parts.builder.build(spec, BuildContext(on_event=renderer))
    renderer.close()
    return out.getvalue()


# All have their first steps in common, c and the last of all also a copy and what comes after it.
PREFIXES = """
((build a ((from x) (run (shell 1)) (workdir /w) (run (shell 2)) (run (shell a))))
 (build b ((from x) (run (shell 1)) (workdir /w) (run (shell 2)) (run (shell 3)) (run (shell b))))
 (build c ((from x) (run (shell 1)) (copy (from (build b)) (src ran) (dst /r)) (run (shell 4))))
 (build e ((from y) (run (shell 1))))
 (from x) (run (shell 1)) (copy (from (build b)) (src ran) (dst /r)) (run (shell 4)))
"""


@pytest.mark.parametrize("text", [SPEC, PREFIXES], ids=["bases", "prefixes"])
async def test_the_same_is_printed_whatever_the_number_of_jobs(tmp_path: Path, text: str) -> None:
    spec = stage(text)
    in_turn = await printed(tmp_path / "1", spec, jobs=1)
    assert in_turn.count(b"---> saved as") > 5
    for jobs in (2, 8):
        assert await printed(tmp_path / str(jobs), spec, jobs=jobs) == in_turn
    assert await printed(tmp_path / "1", spec, jobs=1) == await printed(
        tmp_path / "2", spec, jobs=2
    )


async def test_the_first_failure_cancels_the_others_and_is_raised(tmp_path: Path) -> None:
    held = Held("a", "c", "own")

    async def fail(call: Call) -> None:
        for name in ("a", "c", "own"):
            await held.begun[name].wait()
        raise CommandFailed(call.config.argv, 7)

    sandbox = ScriptedSandbox(scripts={**held.scripts(), "b": fail})
    seen = Events()
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        with anyio.fail_after(60), pytest.raises(CommandFailed) as caught:
            await parts.builder.build(stage(SPEC), seen.context())
    assert caught.value.status == 7
    assert held.running == 0
    failed = [event.stage for event in seen.seen if isinstance(event, events.StageFailed)]
    assert failed == [("b",)]
    assert "d" not in sandbox.commands


@pytest.mark.parametrize("jobs", [None, 1])
async def test_keep_going_makes_what_does_not_depend_on_it(
    tmp_path: Path, jobs: int | None
) -> None:
    async def fail(call: Call) -> None:
        raise CommandFailed(call.config.argv, 7)

    sandbox = ScriptedSandbox(scripts={"a": fail, "c": fail})
    seen = Events()
    async with open_parts(tmp_path / "store", sandbox=sandbox, jobs=jobs) as parts:
        with pytest.raises(StagesFailed) as caught:
            await parts.builder.build(stage(SPEC), seen.context(keep_going=True))
    errors = caught.value.errors
    commands = [error.argv[-1] for error in errors if isinstance(error, CommandFailed)]
    assert sorted(commands) == ["a", "c"]
    assert sorted(sandbox.commands) == ["a", "b", "c", "own"]
    assert not [event for event in seen.seen if isinstance(event, events.BuildFinished)]


async def test_one_failure_of_a_build_that_keeps_going_is_itself(tmp_path: Path) -> None:
    spec = stage('((build a ((from x) (run (shell "exit 3")))) (from x) (run (shell own)))')
    async with open_parts(tmp_path / "store") as parts:
        with pytest.raises(CommandFailed):
            await parts.builder.build(spec, BuildContext(keep_going=True))
        assert sorted(parts.sandbox.commands) == ["exit 3", "own"]


async def test_events_come_one_at_a_time_and_say_their_stage(tmp_path: Path) -> None:
    inside = 0
    seen: list[events.Event] = []

    async def slow(event: events.Event) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        await anyio.lowlevel.checkpoint()
        seen.append(event)
        inside -= 1

    async with open_parts(tmp_path / "store") as parts:
        await parts.builder.build(stage(SPEC), BuildContext(on_event=slow))
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    started = [event.stage for event in seen if isinstance(event, events.StageStarted)]
    assert started == [("a",), ("b",), ("c",), ("d",)]
    output = {event.stage: event.data for event in seen if isinstance(event, events.Output)}
    assert output == {("a",): b"a\n", ("b",): b"b\n", ("c",): b"c\n", ("d",): b"d\n", (): b"own\n"}


async def test_stages_of_one_name_are_made_in_turn(tmp_path: Path) -> None:
    spec = stage("((build a ((from x) (run (shell one)))) (from x) (run (shell own)))")
    twice = Stage(from_=spec.from_, builds=(*spec.builds, *spec.builds), ops=spec.ops)
    seen = Events()
    async with open_parts(tmp_path / "store") as parts:
        await parts.builder.build(twice, seen.context())
        assert parts.sandbox.commands == ["one", "own"]


@pytest.mark.parametrize("jobs", [None, 1])
async def test_an_error_of_the_clients_own_comes_out_as_it_is(
    tmp_path: Path, jobs: int | None
) -> None:
    def fail(event: events.Event) -> None:
        if isinstance(event, events.Output):
            raise ZeroDivisionError

    async with open_parts(tmp_path / "store", jobs=jobs) as parts:
        with pytest.raises(ZeroDivisionError):
            await parts.builder.build(stage(SPEC), BuildContext(on_event=fail))


async def test_a_builder_that_drains_ends_what_runs_and_begins_nothing(tmp_path: Path) -> None:
    held = Held("a", "own")
    sandbox = ScriptedSandbox(scripts=held.scripts())
    errors = []
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:

        async def build() -> None:
            with pytest.raises(BuildError) as caught:
                await parts.builder.build(stage(SPEC))
            errors.append(caught.value.code)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(build)
                for name in ("a", "own"):
                    await held.begun[name].wait()
                parts.builder.drain()
                for name in ("a", "own"):
                    held.may_end[name].set()
        saved = await parts.builder.counters()
        # The base and both that ran, and what else was done by then; d was not begun.
        assert saved.items >= 3
        # What is cached can still be built.
        await parts.builder.build(stage("((from x) (run (shell a)))"))
        with pytest.raises(BuildError):
            await parts.builder.build(stage("((from x) (run (shell new)))"))
    assert errors == ["build.drained"]
    assert "d" not in sandbox.commands
    assert "new" not in sandbox.commands


@pytest.mark.parametrize("keep_going", [False, True])
async def test_a_failure_counts_more_than_what_a_draining_builder_does_not_begin(
    tmp_path: Path, *, keep_going: bool
) -> None:
    held = Held("a", "b")

    async def fail(call: Call) -> None:
        await held.scripts()["b"](call)
        raise CommandFailed(call.config.argv, 7)

    spec = stage("""
        ((build a ((from x) (run (shell a)) (run (shell next))))
         (build b ((from x) (run (shell b))))
         (from x))
    """)
    sandbox = ScriptedSandbox(scripts={**held.scripts(), "b": fail})
    seen = Events()
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:

        async def end() -> None:
            for name in ("a", "b"):
                await held.begun[name].wait()
            parts.builder.drain()
            held.may_end["a"].set()
            # What a did not begin is told before b, which it must not have cancelled, fails.
            await seen.wait_for_event(events.StageFailed)
            held.may_end["b"].set()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(end)
                with pytest.raises(CommandFailed) as caught:
                    await parts.builder.build(spec, seen.context(keep_going=keep_going))
    assert caught.value.status == 7
    failed = [event for event in seen.seen if isinstance(event, events.StageFailed)]
    assert [(event.stage, event.error.code) for event in failed] == [
        (("a",), "build.drained"),
        (("b",), "command.failed"),
    ]
    assert "next" not in sandbox.commands
