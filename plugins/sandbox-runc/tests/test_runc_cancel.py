"""A step that is cancelled, or whose parent is killed, is gone: processes, mounts and files."""

import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from obuilder.errors import ObuilderError, SandboxError
from obuilder.interfaces import BuildLog
from obuilder.testing._traces import children
from obuilder.types import Mount, RunConfig, Secret
from obuilder_sandbox_runc import RuncSandbox, reaper

pytestmark = pytest.mark.anyio

Open = Callable[..., AbstractAsyncContextManager[RuncSandbox]]
Make = Callable[..., RunConfig]
WaitFor = Callable[[bytes], Awaitable[None]]
Left = Callable[[], list[str]]
SECRET = Secret(target="/run/secret", value=b"hidden")
PROMPT_S = 8.0
"""Less than what a program that does not die is given, and more than what a loaded machine
takes. What it takes is measured: docs/durability.md."""

STUBBORN = """trap '' TERM INT HUP
for i in $(seq 100); do (trap '' TERM INT HUP; while :; do sleep 1000; done) & done
echo ready
while :; do wait; done"""


async def test_cancelling_kills_a_hundred_stubborn_processes_at_once(
    open_sandbox: Open,
    config: Make,
    rootfs: Path,
    log: BuildLog,
    wait_for: WaitFor,
    living: Callable[[], list[int]],
    left: Left,
) -> None:
    async with open_sandbox() as sandbox:
        async with anyio.create_task_group() as tasks:
            step = config(STUBBORN, secrets=(SECRET,))
            tasks.start_soon(lambda: sandbox.run(step, rootfs, log=log))
            await wait_for(b"ready")
            assert len(living()) > 100
            before = time.monotonic()
            tasks.cancel_scope.cancel()
        assert time.monotonic() - before < PROMPT_S
        assert left() == []


async def test_cancelling_at_any_moment_leaves_nothing(
    open_sandbox: Open, config: Make, rootfs: Path, log: BuildLog, left: Left
) -> None:
    """From before the bundle until the command runs."""
    async with open_sandbox() as sandbox:
        for delay_ms in range(0, 160, 8):
            with anyio.move_on_after(delay_ms / 1000) as scope:
                await sandbox.run(config("sleep 1000", secrets=(SECRET,)), rootfs, log=log)
            assert scope.cancelled_caught
            assert left() == [], f"after {delay_ms} ms"


async def test_a_runtime_killed_while_it_sets_up_leaves_nothing(
    open_sandbox: Open, config: Make, rootfs: Path, log: BuildLog, left: Left, tmp_path: Path
) -> None:
    """A runtime that is slow to begin is killed with its container when the step is cancelled."""
    fifo, wrapper = tmp_path / "fifo", tmp_path / "slow-runc"
    os.mkfifo(fifo)
    os.mkfifo(tmp_path / "never")
    wrapper.write_text(
        f"""#!/bin/sh
case " $* " in *" run "*) ;; *) exec runc "$@" ;; esac
runc "$@"
echo started >{fifo}
read -r line <{tmp_path}/never
"""
    )
    wrapper.chmod(0o755)
    async with open_sandbox(runtime=str(wrapper)) as sandbox:
        async with anyio.create_task_group() as tasks:
            step = config("sleep 1000")
            tasks.start_soon(lambda: sandbox.run(step, rootfs, log=log))
            reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
            await anyio.wait_readable(reader)
            os.close(reader)
            tasks.cancel_scope.cancel()
        assert left() == []


async def test_the_sandbox_works_after_a_cancel(
    open_sandbox: Open, config: Make, rootfs: Path, log: BuildLog, said: Callable[[], bytes]
) -> None:
    async with open_sandbox() as sandbox:
        with anyio.move_on_after(0.05):
            await sandbox.run(config("sleep 1000"), rootfs, log=log)
        await sandbox.run(config("echo again"), rootfs, log=log)
    assert said().endswith(b"again\n")


async def test_a_container_whose_parent_is_killed_is_killed_too(
    open_sandbox: Open,
    config: Make,
    rootfs: Path,
    log: BuildLog,
    wait_for: WaitFor,
    left: Left,
) -> None:
    caught: list[SandboxError] = []

    async def fail(sandbox: RuncSandbox) -> None:
        try:
            await sandbox.run(config("echo ready; sleep 1000"), rootfs, log=log)
        except SandboxError as error:
            caught.append(error)

    async with open_sandbox() as sandbox:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail, sandbox)
            await wait_for(b"ready")
            # The container may still be a child of the runtime, which is about to end.
            [parent] = [pid for pid in children() if _runs_reaper(pid)]
            os.kill(int(parent), signal.SIGKILL)
        assert [error.code for error in caught] == ["sandbox.killed"]
        assert left() == []


def _runs_reaper(pid: str) -> bool:
    return os.fsencode(reaper.__file__) in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_runtime_that_is_killed_takes_what_it_started_along(
    open_sandbox: Open, config: Make, rootfs: Path, log: BuildLog, left: Left, tmp_path: Path
) -> None:
    """As when the machine runs out of memory: the command runs, and the runtime cannot say so."""
    wrapper = tmp_path / "dying-runc"
    wrapper.write_text(
        """#!/bin/sh
case " $* " in *" run "*) ;; *) exec runc "$@" ;; esac
runc "$@"
kill -9 $$
"""
    )
    wrapper.chmod(0o755)
    async with open_sandbox(runtime=str(wrapper)) as sandbox:
        with pytest.raises(SandboxError) as caught:
            await sandbox.run(config("sleep 1000"), rootfs, log=log)
        assert caught.value.code == "sandbox.killed"
        assert left() == []


async def test_a_secret_that_somebody_looks_at_is_unmounted_all_the_same(
    open_sandbox: Open,
    config: Make,
    rootfs: Path,
    log: BuildLog,
    wait_for: WaitFor,
    state_dir: Path,
    left: Left,
) -> None:
    async with open_sandbox() as sandbox:
        async with anyio.create_task_group() as tasks:
            step = config("echo ready; sleep 1000", secrets=(SECRET,))
            tasks.start_soon(lambda: sandbox.run(step, rootfs, log=log))
            await wait_for(b"ready")
            [file] = state_dir.glob("bundles/*/secrets/0")
            holder = os.open(file, os.O_RDONLY)
            tasks.cancel_scope.cancel()
        os.close(holder)
        assert left() == []


@pytest.mark.parametrize("kind", ["fails", "is cancelled"])
async def test_a_step_that_cannot_be_set_up_leaks_no_descriptor(
    open_sandbox: Open, config: Make, rootfs: Path, log: BuildLog, *, kind: str, left: Left
) -> None:
    wrong = (
        (config("true", network=("foo",)), rootfs),
        (config("true \udce9"), rootfs),
        (config(["/missing"]), rootfs),
        (config("true", cwd="relative", secrets=(SECRET,)), rootfs),
        (config("true", secrets=(Secret(target="/bin/sh/x", value=b""),)), rootfs),
        (config("true", mounts=(Mount(source=rootfs / "missing", target="/c"),)), rootfs),
        (config("true"), rootfs / "missing"),
    )

    async def attempt(sandbox: RuncSandbox) -> None:
        for step, root in wrong:
            if kind == "fails":
                with pytest.raises(ObuilderError):
                    await sandbox.run(step, root, log=log)
            else:
                with anyio.move_on_after(0.01):
                    await sandbox.run(config("sleep 1000", secrets=(SECRET,)), rootfs, log=log)

    async with open_sandbox() as sandbox:
        await attempt(sandbox)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await attempt(sandbox)
        assert len(os.listdir("/proc/self/fd")) == before
        assert left() == []
