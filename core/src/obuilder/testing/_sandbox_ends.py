"""Promises of sandboxes about how a run ends: by itself, badly, cancelled."""

import fcntl
import os
import select
import signal
from pathlib import Path

import anyio
import pytest

from obuilder.errors import CommandFailed, ObuilderError, SandboxError
from obuilder.testing._form import check_form
from obuilder.testing._logs import MemoryLog
from obuilder.testing._sandbox_bench import AnySandbox, SandboxBench
from obuilder.testing._tools import LIMIT_S, descriptors
from obuilder.testing._traces import Mark, children, mounts

__all__ = ["EndPromises"]

# From before the first process to while the command runs.
DELAYS_S = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.12, 0.25)

# It ignores what can be ignored, and so does what it has started in a session of its own. Both
# wait without another process, which would have their arguments until it is another program.
STUBBORN = """trap '' TERM HUP INT
mkfifo /tmp/never 2>/dev/null
setsid /bin/sh -c "trap '' TERM HUP INT; echo started; read x <> /tmp/never" "$0" &
read x <> /tmp/never"""

# What the kernel does to a command also reaches process 1 of a namespace. What that sends itself
# does not: there the last one goes on.
DEATHS = {
    "SEGV": "ulimit -c 0; ulimit -s 64; f() { f; }; f",
    "KILL": "ulimit -t 1; while :; do :; done",
    "TERM": "kill -TERM $$; exit 3",
}

# It says that it has said all by reading what fills its input.
TALKER = """echo started; read x; seq 500; echo end; echo said > /said
cat > /dev/null; mkfifo /tmp/never; read x <> /tmp/never"""
PIPE_BYTES = 4096
UNREAD_LIMIT_S = 3.0


class EndPromises:
    """See SandboxContract."""

    async def test_the_class_says_its_interface_and_its_options(self, bench: SandboxBench) -> None:
        async with bench.open_sandbox() as sandbox:
            check_form(type(sandbox))

    @pytest.mark.parametrize("status", [1, 3, 127, 255])
    async def test_a_command_that_fails_tells_its_status(
        self, bench: SandboxBench, status: int
    ) -> None:
        with pytest.raises(CommandFailed) as caught:
            await bench.run(f"echo no; exit {status}")
        assert caught.value.status == status
        assert caught.value.argv == ("/bin/sh", "-c", f"echo no; exit {status}")
        assert bench.log.data == b"no\n"

    @pytest.mark.parametrize("name", DEATHS)
    async def test_a_command_that_dies_by_a_signal_tells_it(
        self, bench: SandboxBench, name: str
    ) -> None:
        with pytest.raises(CommandFailed) as caught:
            await bench.run(DEATHS[name])
        allowed = {128 + signal.Signals[f"SIG{name}"]} | ({3} if name == "TERM" else set())
        assert caught.value.status in allowed

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
        assert len(descriptors()) <= opened
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
            living = mark.living()
        assert (said, living) == (b"on\n", [])

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

    async def test_a_cancel_leaves_no_descriptor_and_no_child(self, bench: SandboxBench) -> None:
        mark = Mark()
        async with mark.killed_after(LIMIT_S), bench.open_sandbox() as sandbox:
            await _cancelled(bench, sandbox, mark)  # what is made once and kept
            opened, started = len(descriptors()), children()
            for _ in range(3):
                await _cancelled(bench, sandbox, mark)
            left = (len(descriptors()), children())
        assert left[0] <= opened
        assert left[1] <= started

    async def test_output_before_a_cancel_is_in_the_log(self, bench: SandboxBench) -> None:
        mark, log = Mark(), bench.log
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        config = bench.config(["/bin/sh", "-c", TALKER, mark.word])
        try:
            async with mark.killed_after(LIMIT_S), bench.open_sandbox() as sandbox:

                async def run() -> None:
                    await sandbox.run(config, bench.rootfs, log=log, stdin=reader)

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(run)
                    await log.wait_for(b"started\n")
                    os.write(writer, b"\n" + bytes(PIPE_BYTES - 1))
                    # No other task runs meanwhile: it is written, and not read yet. A sandbox
                    # that brings the input by a task does not; then the time is over.
                    select.select([], [writer], [], UNREAD_LIMIT_S)
                    tasks.cancel_scope.cancel()
        finally:
            os.close(reader)
            os.close(writer)
        # A root may be as it was before what was cancelled.
        if await bench.run("cat /said 2>/dev/null || true") == b"said\n":
            assert log.data.endswith(b"\n500\nend\n")

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


async def _cancelled(bench: SandboxBench, sandbox: AnySandbox, mark: Mark) -> None:
    """Run a stubborn command, and cancel it when it has started."""
    log = MemoryLog()
    config = bench.config(["/bin/sh", "-c", STUBBORN, mark.word])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: sandbox.run(config, bench.rootfs, log=log))
        await log.wait_for(b"started\n")
        tasks.cancel_scope.cancel()
