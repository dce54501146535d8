"""Many builds at once, in one process and in several, while results are pruned: none fails.

OBUILDER_STRESS says how many builds; `make stress` has 400.
"""

import os
import sys
import threading
from pathlib import Path

import anyio
import pytest
from support.builds import descriptors
from support.stress import builds, found_wrong, opened, pruning

from obuilder.process import call

BUILDS = int(os.environ.get("OBUILDER_STRESS", "24"))
PROCESSES = 4
HERE = Path(__file__).parent

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60 + 4 * BUILDS)]


async def test_builds_of_one_process_share_and_leak_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as parts:
        await builds(parts, seed=0, count=3)  # what is made once and kept
        before, threads = descriptors(), threading.active_count()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pruning, parts)
            wrong = await builds(parts, seed=1, count=BUILDS)
            tasks.cancel_scope.cancel()
        assert wrong == []
        assert len(descriptors()) <= len(before)
        assert threading.active_count() <= threads + 40  # anyio's own pool of workers
        assert await found_wrong(parts) == []


async def test_builds_of_several_processes_share_and_nothing_is_wrong(tmp_path: Path) -> None:
    store = tmp_path / "store"
    statuses: list[int] = []

    async def process(seed: int) -> None:
        argv = [sys.executable, "-m", "support.stress", str(store), str(seed)]
        environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
        count = str(BUILDS // PROCESSES)
        statuses.append(await call([*argv, count], stdout=2, stderr=2, env=environment, cwd=HERE))

    async with opened(store) as parts, anyio.create_task_group() as tasks:
        tasks.start_soon(pruning, parts)
        async with anyio.create_task_group() as running:
            for seed in range(PROCESSES):
                running.start_soon(process, seed)
        tasks.cancel_scope.cancel()
    assert statuses == [0] * PROCESSES
    async with opened(store) as parts:
        assert await found_wrong(parts) == []
