"""Promises of sandboxes about other builders, alive or killed, and about their own directory.

A command may run on another machine: what is watched is what it answers, holds and writes.
"""

import os
import secrets
import tempfile
from pathlib import Path

import anyio
import pytest

from obuilder.errors import CommandFailed
from obuilder.testing._logs import MemoryLog
from obuilder.testing._sandbox_bench import AnySandbox, SandboxBench
from obuilder.testing._sandbox_other import BEATS
from obuilder.testing._tools import LIMIT_S
from obuilder.testing._traces import mounts, named
from obuilder.types import Id

__all__ = ["BuilderPromises"]


class BuilderPromises:
    """See SandboxContract."""

    async def test_what_a_killed_builder_left_is_listed_and_can_be_discarded(
        self, bench: SandboxBench
    ) -> None:
        id, mounted = Id(secrets.token_hex(32)), mounts(bench.top)
        async with bench.other_builder(id=id) as other:
            await other.kill()
            async with bench.open_sandbox() as sandbox:
                left = await sandbox.leftovers()
                assert {leftover.key for leftover in left} <= {id}
                for leftover in left:
                    await sandbox.discard(leftover)
                    await sandbox.discard(leftover)
                # A sandbox whose commands die with their builder has nothing to list.
                limit_s = 0.0 if left else LIMIT_S
                told = "after it was discarded" if left else "and is not listed"
                assert await other.has_ended(limit_s), f"the command runs on, {told}"
                assert await _rests(bench, sandbox, limit_s), f"the command writes on, {told}"
                assert list(await sandbox.leftovers()) == []
                assert mounts(bench.top) == mounted
                await sandbox.run(bench.config("echo fine", id=id), bench.rootfs, log=bench.log)

    async def test_opening_harms_nothing_of_a_live_process(self, bench: SandboxBench) -> None:
        async with bench.other_builder(id=Id(secrets.token_hex(32))) as other:
            async with bench.open_sandbox() as sandbox:
                await sandbox.leftovers()
                await sandbox.run(bench.config("true"), bench.other_rootfs, log=bench.log)
            assert await other.answers("here"), "it does not answer any more"
        async with bench.open_sandbox() as sandbox:
            for leftover in await sandbox.leftovers():
                await sandbox.discard(leftover)

    async def test_its_state_is_below_its_own_directory(
        self, bench: SandboxBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        working, temporary = tmp_path / "working", tmp_path / "temporary"
        working.mkdir()
        temporary.mkdir()
        # Only what is this test's alone: elsewhere others may be at work.
        parents = {bench.state_dir.parent, bench.rootfs.parent, working, temporary}
        own = [each for each in parents if each.is_relative_to(tmp_path) and each.is_dir()]
        before = {each / name for each in own for name in os.listdir(each)}
        monkeypatch.setenv("TMPDIR", str(temporary))
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        ids = [Id(secrets.token_hex(32)) for _ in range(2)]
        async with bench.open_sandbox() as sandbox:
            # Not before: a path among the options may be relative.
            monkeypatch.chdir(working)
            await sandbox.run(bench.config("true", id=ids[0]), bench.rootfs, log=bench.log)
            with pytest.raises(CommandFailed):
                await sandbox.run(bench.config("exit 3", id=ids[1]), bench.rootfs, log=bench.log)
        after = {each / name for each in own for name in os.listdir(each)}
        assert after - before <= {bench.state_dir}
        left = [path for id in ids for path in named(id)]
        assert [path for path in left if not path.is_relative_to(bench.state_dir)] == []


async def _rests(bench: SandboxBench, sandbox: AnySandbox, limit_s: float) -> bool:
    """Whether nothing beats in the root any more, at once or before the time is over."""
    count = f"cat {BEATS} 2>/dev/null | wc -c"
    deadline = anyio.current_time() + limit_s
    while True:
        log = MemoryLog()
        await sandbox.run(bench.config(f"{count}; sleep 1; {count}"), bench.rootfs, log=log)
        first, second = log.data.split()
        if first == second:
            return True
        if anyio.current_time() >= deadline:
            return False
