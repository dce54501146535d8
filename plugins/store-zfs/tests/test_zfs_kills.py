"""A builder on zfs that dies at durable steps of operations, as in tests/test_kill_points.py.

Two operations; OBUILDER_KILL_STORES=zfs has all.
"""

from collections.abc import Iterator

import pytest
from support.kill_cases import CHOSEN, LIMIT, Site, cases, kill_at_its_steps
from support.zfs_trees import ZfsTree

OPERATIONS = ("run", "delete")
CASES = [case for case in cases(["zfs"]) if CHOSEN or case[1] in OPERATIONS]

pytestmark = LIMIT


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, zfs_pool: str) -> Iterator[Site]:
    tree = ZfsTree.made(f"{zfs_pool}/kills")
    made = Site(request.param, tree.directory)
    yield made
    made.remove()
    tree.destroy()


@pytest.mark.parametrize(("site", "name"), CASES, indirect=["site"])
def test_after_a_kill_at_a_durable_step_all_is_whole_and_done_again(site: Site, name: str) -> None:
    kill_at_its_steps(site, name)
