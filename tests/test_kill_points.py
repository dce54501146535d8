"""A builder that dies at any durable step of any operation: the next finds all whole, or not there.

Every `OBUILDER_KILL_STRIDE`-th step is tried, from a random one on; `make stress` tries each.
OBUILDER_SEED is the seed of that, OBUILDER_KILL_STORES the stores.
"""

import itertools
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.kill_checks import look_at, verify, wrong_after, wrong_at_last
from support.kill_operations import OPERATIONS, Place, run_operation
from support.kill_points import in_process

STRIDE = int(os.environ.get("OBUILDER_KILL_STRIDE", "23"))
STORES = os.environ.get("OBUILDER_KILL_STORES", "rsync").split(",")
SEED = int(os.environ.get("OBUILDER_SEED", "1"))
ROOTS = {"rsync": "tmp_path", "btrfs": "btrfs_root", "reflink": "xfs_root"}

pytestmark = pytest.mark.timeout(7200 // STRIDE + 60)


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest) -> Callable[[str], Place]:
    """A place for each name, on the file system of a store."""
    directory: Path = request.getfixturevalue(ROOTS[request.param])
    return lambda name: Place(driver=request.param, directory=directory / name, backend="asyncio")


@pytest.mark.parametrize("name", OPERATIONS)
def test_after_a_kill_at_a_durable_step_all_is_whole_and_done_again(
    name: str, place: Callable[[str], Place]
) -> None:
    operation = OPERATIONS[name]
    template = place("template")
    template.directory.mkdir()
    operation.template(template)
    undisturbed = copy = template.copied(place("undisturbed").directory)
    before = look_at(copy, opening=False) if copy.root.exists() else {}
    if operation.prepare:
        operation.prepare(copy)
    outcome = in_process(run_operation, name, undisturbed, watched=[]).value
    good = look_at(undisturbed)
    undisturbed.remove()
    wrong: list[str] = []
    tried = 0
    begin = random.Random(f"{SEED}-{name}").randrange(STRIDE)
    for last in itertools.count(1 + begin, STRIDE):
        copy = template.copied(place(f"killed-{last}").directory)
        if operation.prepare:
            operation.prepare(copy)
        ended = in_process(run_operation, name, copy, last=last, watched=[copy.directory])
        if ended.killed_at is None:
            copy.remove()
            break
        tried += 1
        try:
            verified = in_process(verify, name, copy, watched=[])
        except AssertionError as error:
            found = [str(error)]
        else:
            found = wrong_after(verified.value, before, good, mends=operation.mends)
            found += wrong_at_last(verified.value, good, outcome)
        wrong += [f"killed at step {last}, {ended.killed_at}: {each}" for each in found]
        copy.remove()
    template.remove()
    told = f"{name} on {template.driver}: {tried} kill points, one of {STRIDE}, seed {SEED}"
    sys.stdout.write(f"{told}\n")
    assert not wrong, "\n".join([told, *wrong])
