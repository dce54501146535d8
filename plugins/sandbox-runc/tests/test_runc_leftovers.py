"""What a builder that was killed leaves is listed, and discarding it leaves nothing."""

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from obuilder.interfaces import BuildLog
from obuilder.types import Id, Leftover, LeftoverKind, RunConfig
from obuilder_sandbox_runc import RuncSandbox

pytestmark = pytest.mark.anyio

Open = Callable[..., AbstractAsyncContextManager[RuncSandbox]]
Make = Callable[..., RunConfig]
Left = Callable[[], list[str]]

BUILDER = """
import os, sys
from pathlib import Path
import anyio
from obuilder.interfaces import BuildLog
from obuilder.types import RunConfig, Secret
from obuilder_sandbox_runc import RuncSandbox
from contextlib import asynccontextmanager

class Log(BuildLog):
    async def output(self, data): pass
    async def note(self, text): pass
    @asynccontextmanager
    async def pipe(self): yield 1

state, id, rootfs, runtime, command = sys.argv[1:]

async def main():
    async with RuncSandbox.open(Path(state), RuncSandbox.Config(runtime=runtime)) as sandbox:
        env = (("PATH", "/bin"),)
        secrets = (Secret(target="/run/secret", value=b"hidden"),)
        step = RunConfig(id=id, argv=("/bin/sh", "-c", command), env=env, secrets=secrets)
        await sandbox.run(step, Path(rootfs), log=Log())

anyio.run(main)
"""
COMMAND = "trap '' TERM; echo ready; while :; do echo x >>/alive; done"


@pytest.fixture
def killed_builder(state_dir: Path, step_id: Id, rootfs: Path) -> Callable[..., Awaitable[None]]:
    """Runs a step in a process of its own, and kills that when it has printed a line."""

    async def kill(runtime: str = "runc") -> None:
        argv = [
            sys.executable,
            "-c",
            BUILDER,
            str(state_dir),
            step_id,
            str(rootfs),
            runtime,
            COMMAND,
        ]
        async with await anyio.open_process(argv, stderr=None) as builder:
            assert builder.stdout
            with anyio.fail_after(30):
                assert await builder.stdout.receive() == b"ready\n"
            builder.kill()
            await builder.wait()

    return kill


async def test_what_a_killed_builder_left_is_listed_and_discarded(
    killed_builder: Callable[[], Awaitable[None]],
    open_sandbox: Open,
    step_id: Id,
    living: Callable[[], list[int]],
    state_dir: Path,
    left: Left,
) -> None:
    await killed_builder()
    async with open_sandbox() as sandbox:
        [leftover] = await sandbox.leftovers()
        assert (leftover.kind, leftover.key) == (LeftoverKind.CONTAINER, step_id)
        assert living() != []  # which is why it must be looked for
        assert any(str(state_dir).replace(" ", "\\040") in line for line in left())
        await sandbox.discard(leftover)
        assert living() == []
        assert left() == []
        assert await sandbox.leftovers() == []
        await sandbox.discard(leftover)  # gone: nothing to do


async def test_a_leftover_known_by_its_key_alone_is_discarded(
    killed_builder: Callable[[], Awaitable[None]], open_sandbox: Open, step_id: Id, left: Left
) -> None:
    await killed_builder()
    async with open_sandbox() as sandbox:
        await sandbox.discard(Leftover(kind=LeftoverKind.CONTAINER, key=step_id))
        assert left() == []


async def test_running_a_step_first_ends_what_a_dead_builder_left_of_it(
    killed_builder: Callable[[], Awaitable[None]],
    open_sandbox: Open,
    config: Make,
    rootfs: Path,
    log: BuildLog,
    said: Callable[[], bytes],
    left: Left,
) -> None:
    await killed_builder()
    async with open_sandbox() as sandbox:
        await sandbox.run(config("rm /alive; echo done; ls /"), rootfs, log=log)
        assert b"alive" not in said()
        assert not (rootfs / "alive").exists()
        assert left() == []


async def test_a_runtime_that_outlived_its_builder_is_ended_too(
    killed_builder: Callable[[str], Awaitable[None]],
    open_sandbox: Open,
    tmp_path: Path,
    left: Left,
) -> None:
    """It was still setting up when the builder was killed, and could start the command later."""
    os.mkfifo(tmp_path / "never")
    wrapper = tmp_path / "slow-runc"
    wrapper.write_text(
        f"""#!/bin/sh
case " $* " in *" run "*) ;; *) exec runc "$@" ;; esac
echo ready
read -r line <{tmp_path}/never
exec runc "$@"
"""
    )
    wrapper.chmod(0o755)
    await killed_builder(str(wrapper))
    async with open_sandbox() as sandbox:
        [leftover] = await sandbox.leftovers()
        await sandbox.discard(leftover)
        assert left() == []
        assert _running(leftover.path) == []


async def test_a_running_step_is_listed_for_whoever_asks(
    open_sandbox: Open,
    config: Make,
    rootfs: Path,
    log: BuildLog,
    wait_for: Callable[[bytes], Awaitable[None]],
    step_id: Id,
) -> None:
    async with open_sandbox() as sandbox, open_sandbox() as other:
        assert await other.leftovers() == []
        async with anyio.create_task_group() as tasks:
            step = config("echo ready; sleep 1000")
            tasks.start_soon(lambda: sandbox.run(step, rootfs, log=log))
            await wait_for(b"ready")
            assert [each.key for each in await other.leftovers()] == [step_id]
            tasks.cancel_scope.cancel()
        assert await other.leftovers() == []


@pytest.mark.parametrize("content", [b"", b'{"id": "cut', None])
async def test_a_container_that_a_crash_of_the_machine_left_is_discarded(
    open_sandbox: Open, state_dir: Path, step_id: Id, left: Left, *, content: bytes | None
) -> None:
    async with open_sandbox() as sandbox:
        container = state_dir / "runc" / f"{step_id}-0123abcd"
        container.mkdir()
        if content is not None:
            (container / "state.json").write_bytes(content)
        (state_dir / "bundles" / container.name).mkdir()
        [leftover] = await sandbox.leftovers()
        await sandbox.discard(leftover)
        assert left() == []


async def test_files_of_others_are_no_leftovers(open_sandbox: Open, state_dir: Path) -> None:
    async with open_sandbox() as sandbox:
        (state_dir / "bundles" / "notes.txt").touch()
        assert await sandbox.leftovers() == []


def _running(path: Path | None) -> list[str]:
    assert path is not None
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if os.fsencode(path.name) in line:
            found.append(entry.name)
    return found
