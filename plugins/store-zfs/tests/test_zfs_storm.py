"""Kills (-9) at random moments, and many builds at once, on zfs: OBUILDER_STORES=zfs has them run.

As in tests/test_kill_storm.py and test_stress.py.
"""

from pathlib import Path

import anyio
import pytest
from support import kill_storm, stress_runs
from support.command import Command
from support.stress import SANDBOXES

from obuilder_store_zfs import ZfsStore


@pytest.fixture
def root(zfs_name: str) -> Path:
    """The directory of a store of this test's own, which has been opened once."""

    async def main() -> Path:
        async with ZfsStore.open(zfs_name, ZfsStore.Config()) as store:
            return store.root

    return anyio.run(main)


@pytest.fixture(params=SANDBOXES)
def sandbox(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@kill_storm.LIMIT
def test_after_any_kill_every_result_is_whole_and_known(root: Path, obuilder: Command) -> None:
    kill_storm.storm("zfs", root, obuilder)


@pytest.mark.anyio
@stress_runs.LIMIT
async def test_builds_of_one_process_share_and_leak_nothing(sandbox: str, root: Path) -> None:
    await stress_runs.in_one_process("zfs", sandbox, root)


@pytest.mark.anyio
@stress_runs.LIMIT
async def test_builds_of_several_processes_share_and_nothing_is_wrong(
    sandbox: str, root: Path
) -> None:
    await stress_runs.in_several_processes("zfs", sandbox, root)
