"""Promises of sandboxes about how a run ends: by itself, badly, cancelled, its builder killed."""

import os
import secrets
from pathlib import Path

import anyio
import pytest

from obuilder.errors import CommandFailed, ObuilderError, SandboxError
from obuilder.testing._sandbox_bench import SandboxBench
from obuilder.testing._tools import LIMIT_S, descriptors
from obuilder.testing._traces import Mark, children, mounts
from obuilder.types import Id

__all__ = ["EndPromises"]

# From before the first process to while the command runs.
DELAYS_S = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.12, 0.25)

# It ignores what can be ignored, and so does what it has started in a session of its own. Both
# wait without another process, which would have their arguments until it is another program.
STUBBORN = """trap '' TERM HUP INT
mkfifo /tmp/never 2>/dev/null
setsid /bin/sh -c "trap '' TERM HUP INT; echo started; read x <> /tmp/never" "$0" &
read x <> /tmp/never"""


class EndPromises:
    """See SandboxContract."""

    @pytest.mark.parametrize("status", [1, 3, 127, 255])
    async def test_a_command_that_fails_tells_its_status(
        self, bench: SandboxBench, status: int
    ) -> None:
        with pytest.raises(CommandFailed) as caught:
            await bench.run(f"echo no; exit {status}")
        assert caught.value.status == status
        assert caught.value.argv == ("/bin/sh", "-c", f"echo no; exit {status}")
        assert bench.log.data == b"no\n"

    async def test_what_cannot_be_started_fails_and_does_no_harm(self, bench: SandboxBench) -> None:
        with pytest.raises(ObuilderError):
            await bench.run(["/no/such/program"])
        with pytest.raises(ObuilderError):
            await bench.run(["/bin"])
        assert await bench.run("echo fine") == b"fine\n"

    async def test_a_root_that_is_not_there_is_an_error(self, bench: SandboxBench) -> None:
        bench.rootfs = bench.rootfs / "missing" / "root"
        with pytest.raises(SandboxError):
            await bench.run("true")

    async def test_an_ended_run_leaves_nothing_behind(self, bench: SandboxBench) -> None:
        await bench.run("true")  # what is made once and kept
        mounted, opened, started = mounts(bench.top), len(descriptors()), children()
        async with bench.open_sandbox() as sandbox:
            for command in ("true", "exit 3"):
                try:
                    await sandbox.run(bench.config(command), bench.rootfs, log=bench.log)
                except CommandFailed:
                    assert command == "exit 3"
                assert list(await sandbox.leftovers()) == []
                assert mounts(bench.top) == mounted
        assert len(descriptors()) == opened
        assert children() <= started

    async def test_what_a_command_leaves_running_ends_with_it(self, bench: SandboxBench) -> None:
        mark = Mark()
        stays = "(trap '' TERM HUP; while :; do sleep 1; done) >/dev/null 2>&1 </dev/null & echo on"
        async with mark.killed_after(LIMIT_S):
            said = await bench.run(["/bin/sh", "-c", stays, mark.word])
            living = mark.living()
        assert (said, living) == (b"on\n", [])

    async def test_a_daemon_that_holds_the_output_does_not_hold_the_run(
        self, bench: SandboxBench
    ) -> None:
        mark = Mark()
        daemon = 'setsid /bin/sh -c "while :; do sleep 1; done" "$0" & echo on'
        async with mark.killed_after(LIMIT_S):
            said = await bench.run(["/bin/sh", "-c", daemon, mark.word])
        assert said == b"on\n"

    async def test_a_cancel_kills_all_that_runs_inside(self, bench: SandboxBench) -> None:
        mark, mounted = Mark(), mounts(bench.top)
        config = bench.config(["/bin/sh", "-c", STUBBORN, mark.word])
        async with mark.killed_after(LIMIT_S), bench.open_sandbox() as sandbox:

            async def run() -> None:
                await sandbox.run(config, bench.rootfs, log=bench.log)
                pytest.fail("it ended by itself")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await bench.log.wait_for(b"started\n")
                tasks.cancel_scope.cancel()
            left = (mark.living(), mounts(bench.top) - mounted, list(await sandbox.leftovers()))
        assert left == ([], set(), [])
        assert await bench.run("echo fine") == b"fine\n"

    async def test_a_cancel_at_any_moment_leaves_nothing_behind(self, bench: SandboxBench) -> None:
        await bench.run("true")
        mark, mounted = Mark(), mounts(bench.top)
        async with mark.killed_after(LIMIT_S), bench.open_sandbox() as sandbox:
            for delay_s in DELAYS_S:
                config = bench.config(["/bin/sh", "-c", STUBBORN, mark.word])
                with anyio.move_on_after(delay_s):
                    await sandbox.run(config, bench.rootfs, log=bench.log)
                left = (mark.living(), mounts(bench.top) - mounted, list(await sandbox.leftovers()))
                assert left == ([], set(), []), f"cancelled after {delay_s} s"

    async def test_two_commands_run_at_the_same_time(self, bench: SandboxBench) -> None:
        ends = [os.pipe() for _ in range(2)]
        try:
            with anyio.fail_after(LIMIT_S):
                async with bench.open_sandbox() as sandbox, anyio.create_task_group() as tasks:

                    async def run(reader: int, rootfs: Path) -> None:
                        config = bench.config("echo on; cat")
                        await sandbox.run(config, rootfs, log=bench.log, stdin=reader)

                    for (reader, _), rootfs in zip(ends, bench.roots, strict=True):
                        tasks.start_soon(run, reader, rootfs)
                    await bench.log.wait_for(b"on\non\n")
                    for _, writer in ends:
                        os.close(writer)
        finally:
            for reader, _ in ends:
                os.close(reader)

    async def test_what_a_killed_builder_left_is_listed_and_can_be_discarded(
        self, bench: SandboxBench
    ) -> None:
        mark, id, mounted = Mark(), Id(secrets.token_hex(32)), mounts(bench.top)
        try:
            async with bench.other_process(STUBBORN, mark.word, id=id):
                assert mark.living()
            async with bench.open_sandbox() as sandbox:
                left = await sandbox.leftovers()
                assert {leftover.key for leftover in left} <= {id}
                for leftover in left:
                    await sandbox.discard(leftover)
                    await sandbox.discard(leftover)
                assert not left or mark.living() == [], "it runs on after it was discarded"
                # A sandbox whose commands die with their builder has nothing to list.
                assert await mark.wait_until_dead(), "the command runs on, and is not listed"
                assert list(await sandbox.leftovers()) == []
                assert mounts(bench.top) == mounted
                await sandbox.run(bench.config("echo fine", id=id), bench.rootfs, log=bench.log)
        finally:
            mark.kill()

    async def test_opening_harms_nothing_of_a_live_process(self, bench: SandboxBench) -> None:
        mark, id = Mark(), Id(secrets.token_hex(32))
        try:
            async with bench.other_process(STUBBORN, mark.word, id=id):
                before = mark.living()
                async with bench.open_sandbox() as sandbox:
                    await sandbox.leftovers()
                    await sandbox.run(bench.config("true"), bench.other_rootfs, log=bench.log)
                assert set(before) <= set(mark.living())
                assert before
            async with bench.open_sandbox() as sandbox:
                for leftover in await sandbox.leftovers():
                    await sandbox.discard(leftover)
        finally:
            mark.kill()

    async def test_its_state_is_below_its_own_directory(self, bench: SandboxBench) -> None:
        before = set(os.listdir(bench.state_dir.parent))
        await bench.run("true")
        assert set(os.listdir(bench.state_dir.parent)) - before <= {bench.state_dir.name}
        assert Path(bench.state_dir).parent.exists()
