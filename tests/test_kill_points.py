"""A builder that dies at any durable step of any operation: the next finds all whole, or not there.

Some steps are tried (support/kill_cases.py); `make stress` tries each. OBUILDER_KILL_STORES are the
stores. Those on zfs are in plugins/store-zfs/tests.
"""

from collections.abc import Iterator

import pytest
from support.kill_cases import CHOSEN, LIMIT, Site, cases, kill_at_its_steps
from support.store_kinds import store_kinds

FILE_SYSTEMS = {
    "btrfs": "btrfs_file_system",
    "overlayfs": "ext4_file_system",
    "reflink": "xfs_file_system",
}

pytestmark = LIMIT


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("kill-points")
    if request.param in FILE_SYSTEMS:
        directory = request.getfixturevalue(FILE_SYSTEMS[request.param]) / directory.name
        directory.mkdir()
    made = Site(request.param, directory)
    yield made
    made.remove()


@pytest.mark.parametrize(("site", "name"), cases(store_kinds(CHOSEN or "rsync")), indirect=["site"])
def test_after_a_kill_at_a_durable_step_all_is_whole_and_done_again(site: Site, name: str) -> None:
    kill_at_its_steps(site, name)
