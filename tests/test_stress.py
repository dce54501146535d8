"""Many builds at once, in one process and in several, while results are pruned: none fails.

OBUILDER_STRESS says how many builds, OBUILDER_STRESS_RUNC how many whose steps really run,
OBUILDER_STORES on which stores; `make stress` has 400 and 100 on all. The stress on zfs is in
plugins/store-zfs/tests.
"""

import os
from pathlib import Path

import pytest
from support.store_kinds import store_kinds, store_root
from support.stress import SANDBOXES
from support.stress_runs import LIMIT, in_one_process, in_several_processes

CHOSEN = store_kinds(os.environ.get("OBUILDER_STORES"))

pytestmark = [pytest.mark.anyio, LIMIT]


@pytest.fixture(params=CHOSEN)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SANDBOXES)
def sandbox(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kind: str, request: pytest.FixtureRequest) -> Path:
    return store_root(kind, request)


async def test_builds_of_one_process_share_and_leak_nothing(
    kind: str, sandbox: str, store: Path
) -> None:
    await in_one_process(kind, sandbox, store)


async def test_builds_of_several_processes_share_and_nothing_is_wrong(
    kind: str, sandbox: str, store: Path
) -> None:
    await in_several_processes(kind, sandbox, store)
