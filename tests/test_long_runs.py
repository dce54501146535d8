"""Long runs leak nothing: after many builds a process holds what it held after a few.

OBUILDER_BUILDS says how many builds; `make stress` has 1,000. It looks five times: after the
first round, when all is there that is made once and kept, and then after each quarter.
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

BUILDS = int(os.environ.get("OBUILDER_BUILDS", "60"))
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


@pytest.mark.usefixtures("traced")
async def test_many_builds_of_all_kinds_leave_nothing_in_the_process(
    tmp_path: Path,
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    begun = time.monotonic()
    seen: list[Held] = []
    async with open_runc(tmp_path / "store") as parts:
        await make_round(parts, 0, source=source)
        seen.append(await held(parts))
        for quarter in range(QUARTERS):
            for number in range(ROUNDS):
                await make_round(parts, 1 + quarter * ROUNDS + number, source=source)
            seen.append(await held(parts))
        growing = always_grew(seen)
    seconds = time.monotonic() - begun
    for each in seen:
        sys.stdout.write(f"{each}\n")
    sys.stdout.write(f"{1 + QUARTERS * ROUNDS} rounds in {seconds:.0f} s\n")
    assert growing == {}
    assert [each.rest() for each in seen] == [seen[0].rest()] * len(seen)
    # A table of the interpreter that is made larger once is in one quarter; a leak in each.
    traced = [each.traced_bytes for each in seen[QUARTERS // 2 :]]
    assert min(two - one for one, two in itertools.pairwise(traced)) < NOISE_BYTES
