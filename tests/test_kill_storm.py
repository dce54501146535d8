"""Kills (-9) at random moments over builds that share steps and a cache; then all is whole.

OBUILDER_STORM says how many rounds for each store; by hand, 140 of them are about 200 kills.
OBUILDER_STORES says which stores: `rsync,btrfs`, or `all`; OBUILDER_SEED the seed. The storm on
zfs is in plugins/store-zfs/tests.
"""

import os

import pytest
from support.command import Command
from support.kill_storm import LIMIT, storm
from support.store_kinds import store_kinds, store_root

CHOSEN = store_kinds(os.environ.get("OBUILDER_STORES"))

pytestmark = LIMIT


@pytest.mark.parametrize("kind", CHOSEN)
def test_after_any_kill_every_result_is_whole_and_known(
    kind: str, obuilder: Command, request: pytest.FixtureRequest
) -> None:
    storm(kind, store_root(kind, request), obuilder)
