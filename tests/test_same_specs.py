"""Twenty specs give the same ids and the same files, byte for byte, on every store."""

import shutil
from collections.abc import Iterator, Mapping

import pytest
from support.same_site import Built, Site
from support.same_specs import SPECS

STORES: dict[str, tuple[str, str, Mapping[str, object]]] = {
    "rsync-hardlink": ("ext4_root", "rsync", {"rsync": {"mode": "hardlink"}}),
    "rsync-hardlink-unsafe": ("ext4_root", "rsync", {"rsync": {"mode": "hardlink_unsafe"}}),
    "btrfs": ("btrfs_root", "btrfs", {}),
    "overlayfs-ext4": ("ext4_root", "overlayfs", {}),
    "overlayfs-xfs": ("xfs_root", "overlayfs", {}),
    "reflink-xfs": ("xfs_root", "reflink", {}),
    "reflink-btrfs": ("btrfs_root", "reflink", {}),
}
"""Fixture of the location, driver and options of each that must agree with a plain copy.

zfs is tried in plugins/store-zfs/tests: its pool would be there for all tests in between.
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("same"))


@pytest.fixture(scope="module")
def plain(site: Site) -> Iterator[dict[str, Built]]:
    """What a store of plain copies makes of them."""
    store = site.directory / "store"
    yield site.built(f"rsync:{store}", {})
    shutil.rmtree(store)


def test_there_are_twenty_and_they_differ(plain: dict[str, Built]) -> None:
    assert len(SPECS) == len({id for id, _ in plain.values()}) == 20
    for name, (_, found) in plain.items():
        assert [path for path in found if path.startswith("t/")], name


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", STORES)
def test_each_store_agrees_with_a_plain_copy(
    name: str, site: Site, plain: dict[str, Built], request: pytest.FixtureRequest
) -> None:
    fixture, driver, options = STORES[name]
    found = site.built(f"{driver}:{request.getfixturevalue(fixture)}/same", options)
    for spec in SPECS:
        assert found[spec] == plain[spec], spec
