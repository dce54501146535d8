"""Twenty specs give the same ids and files on zfs as on a store of plain copies."""

from pathlib import Path

import pytest
from support.same_site import Site
from support.same_specs import SPECS


@pytest.mark.timeout(600)
def test_zfs_agrees_with_a_plain_copy(tmp_path: Path, zfs_name: str) -> None:
    site = Site(tmp_path)
    plain = site.built(f"rsync:{tmp_path}/store", {})
    found = site.built(f"zfs:{zfs_name}", {})
    for spec in SPECS:
        assert found[spec] == plain[spec], spec
