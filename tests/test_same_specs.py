"""Twenty specs give the same ids and the same files, byte for byte, on every store."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from support.images import busybox_tarball
from support.same_specs import SPECS, make_source

from obuilder import BuildContext, Settings, open_builder, parse
from obuilder.events import StepFinished
from obuilder.testing._trees import describe_tree

Built = tuple[str, Mapping[str, object]]
STEPS = 2 * len(SPECS)  # at least

STORES: dict[str, tuple[str, str, Mapping[str, object]]] = {
    "rsync-hardlink": ("ext4_root", "rsync", {"rsync": {"mode": "hardlink"}}),
    "rsync-hardlink-unsafe": ("ext4_root", "rsync", {"rsync": {"mode": "hardlink_unsafe"}}),
    "btrfs": ("btrfs_root", "btrfs", {}),
    "overlayfs-ext4": ("ext4_root", "overlayfs", {}),
    "overlayfs-xfs": ("xfs_root", "overlayfs", {}),
    "reflink-xfs": ("xfs_root", "reflink", {}),
    "reflink-btrfs": ("btrfs_root", "reflink", {}),
    "zfs": ("zfs_name", "zfs", {}),
}
"""Fixture of the location, driver and options of each that must agree with a plain copy."""


@dataclass
class Site:
    """What the specs need: a base beside them and a source tree."""

    directory: Path
    seen: list[StepFinished] = field(default_factory=list)

    def __post_init__(self) -> None:
        source = self.directory / "src"
        source.mkdir()
        make_source(source)
        shutil.copy(busybox_tarball(), self.directory / "busybox.tar")

    def built(self, location: str, options: Mapping[str, object]) -> dict[str, Built]:
        """The id and the files of each spec on one store."""
        settings = Settings.from_dict({"store": location, **options})
        return anyio.run(self._built, settings)

    async def _built(self, settings: Settings) -> dict[str, Built]:
        context = BuildContext(
            src_dir=self.directory / "src",
            spec_dir=self.directory,
            secrets={"token": b"12345"},
            on_event=self._hear,
        )
        found = {}
        async with open_builder(settings) as builder:
            for name, text in SPECS.items():
                stage = parse(text.encode(), file=name)
                result = await builder.build(stage, context)
                found[name] = (str(result.id), files(result.path / "rootfs"))
            self.seen.clear()
            for text in SPECS.values():
                await builder.build(parse(text.encode()), context)
            assert len(self.seen) > STEPS
            assert all(step.cached for step in self.seen)
        return found

    def _hear(self, event: object) -> None:
        if isinstance(event, StepFinished):
            self.seen.append(event)


def files(rootfs: Path) -> Mapping[str, object]:
    """All that is to be equal: times as well in `/t`, whose specs set them."""
    return {
        path: entry if path.split("/")[0] == "t" else entry[:3] + entry[4:]
        for path, entry in describe_tree(rootfs).items()
        if isinstance(entry, tuple)
    }


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
    location = request.getfixturevalue(fixture)
    if isinstance(location, Path):
        location = location / "same"
    found = site.built(f"{driver}:{location}", options)
    for spec in SPECS:
        assert found[spec] == plain[spec], spec
