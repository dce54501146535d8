"""Long runs leak nothing: after many builds a process holds what it held after a few.

OBUILDER_BUILDS says how many builds, OBUILDER_LONG_STORES on which stores; `make stress` has
1,000 on each. It looks five times: after the first rounds, when all is there that is made once
and kept (overlayfs keeps up to 16 results mounted), and then after each quarter.
"""

import itertools
import os
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.long_runs import BUILDS_OF_A_ROUND, Held, always_grew, held, make_round
from support.runc_builds import open_runc
from support.store_kinds import KINDS, store_kinds, store_root

BUILDS = int(os.environ.get("OBUILDER_BUILDS", "60"))
CHOSEN = store_kinds(os.environ.get("OBUILDER_LONG_STORES", "rsync"))
FIRST = 2
QUARTERS = 4
NOISE_BYTES = 32 << 10  # what worker threads have, which come and go
# Of a quarter, rounded up.
ROUNDS = max(1, -((BUILDS_OF_A_ROUND - BUILDS) // (BUILDS_OF_A_ROUND * QUARTERS)))

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120 + 3 * BUILDS)]


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.fixture(params=CHOSEN)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kind: str, request: pytest.FixtureRequest) -> Path:
    return store_root(kind, request)


@pytest.mark.usefixtures("traced")
async def test_many_builds_of_all_kinds_leave_nothing_in_the_process(
    tmp_path: Path, kind: str, store: Path
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    begun = time.monotonic()
    seen: list[Held] = []
    async with open_runc(store, kind=KINDS[kind]) as parts:
        for number in range(FIRST):
            await make_round(parts, number, source=source)
        seen.append(await held(parts))
        for quarter in range(QUARTERS):
            for number in range(ROUNDS):
                await make_round(parts, FIRST + quarter * ROUNDS + number, source=source)
            seen.append(await held(parts))
        growing = always_grew(seen)
    seconds = time.monotonic() - begun
    for each in seen:
        sys.stdout.write(f"{each}\n")
    sys.stdout.write(f"{FIRST + QUARTERS * ROUNDS} rounds in {seconds:.0f} s\n")
    assert growing == {}
    assert [each.rest() for each in seen] == [seen[0].rest()] * len(seen)
    # A table of the interpreter that is made larger once is in one quarter; a leak in each.
    traced = [each.traced_bytes for each in seen[QUARTERS // 2 :]]
    assert min(two - one for one, two in itertools.pairwise(traced)) < NOISE_BYTES
