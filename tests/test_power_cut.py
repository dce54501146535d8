"""The power is cut while builds run: each result that is there afterwards is whole, and known.

OBUILDER_CUTS says how many cuts for each store; `make stress` has many. See support/power.py for
what a cut is.
"""

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from support.command import LIMIT_S, Command
from support.kill_checks import Tree, look_at, wrong_results
from support.kill_places import Place
from support.paired_builds import paired_spec, started
from support.power import Disk, disk_in

from obuilder.durable import sync_directory

CUTS = int(os.environ.get("OBUILDER_CUTS", "2"))
PER_RUN = 8
STORES = {"rsync-ext4": "ext4", "rsync-xfs": "xfs", "reflink-xfs": "xfs", "btrfs-btrfs": "btrfs"}

STEP = (
    '(run (cache (shared (target /c))) (shell "echo begin {name}; for i in 1 2 3 4; do'
    " yes {name}-$i | head -c 300000 > /{name}-$i; done; mkdir -p /d/{name};"
    ' cp /{name}-1 /d/{name}/copy; yes {name} | head -c 50000 > /c/{name}-c; echo end {name}"))'
)

pytestmark = pytest.mark.timeout(120 + 20 * CUTS)


@pytest.fixture
def disk(request: pytest.FixtureRequest, xfs_root: Path) -> Iterator[Disk]:
    with disk_in(xfs_root, STORES[request.param]) as made:
        yield made


def cut_while_building(obuilder: Command, disk: Disk, chance: random.Random, count: int) -> None:
    """Pairs of builds, and that many cuts at random moments."""
    number = 0
    while len(disk.cuts) < count:
        builds = [
            started(obuilder, paired_spec(STEP, number, each), f"spec-{each}") for each in "ab"
        ]
        # Not in the first, so that however slow the machine is there are results to look into.
        while number and any(build.poll() is None for build in builds) and len(disk.cuts) < count:
            with suppress(subprocess.TimeoutExpired):
                builds[-1].wait(chance.uniform(0.05, 0.8))
            disk.cut()
        for build in builds:
            _, complaint = build.communicate(timeout=LIMIT_S)
            assert build.returncode == 0, complaint
        number += 1


def place_on(disk: Disk, obuilder: Command, request: pytest.FixtureRequest) -> Place:
    """A store on the disk, which the command uses from now on."""
    driver = request.node.callspec.params["disk"].partition("-")[0]
    place = Place(driver=driver, directory=disk.mounted, backend="asyncio")
    obuilder.store = f"{driver}:{place.root}"
    return place


@pytest.mark.parametrize("disk", STORES, indirect=True)
def test_what_is_saved_is_on_the_disk_with_all_its_files(
    disk: Disk, obuilder: Command, request: pytest.FixtureRequest
) -> None:
    place = place_on(disk, obuilder, request)
    with disk.powered():
        # A cache that is released is on the disk too, and what was written before it.
        text = (
            paired_spec(STEP, 0, "a")
            .replace("(cache (shared (target /c)))", "")
            .replace("> /c/", "> /")
        )
        build = started(obuilder, text, "spec-a")
        _, complaint = build.communicate(timeout=LIMIT_S)
        assert build.returncode == 0, complaint
        # The names are made to last, and with them what they need; nothing asks for the files.
        sync_directory(place.root / "result")
        disk.cut()
        good = {name: each.results for name, each in look_at(place).items()}
    with disk.powered(disk.cuts[0]):
        look = look_at(place)
        assert wrong_results(look, good) == []
        assert look["store"].results.keys() == good["store"].keys()


@pytest.mark.parametrize("disk", STORES, indirect=True)
def test_after_a_power_cut_every_result_is_whole_and_known(
    disk: Disk, obuilder: Command, request: pytest.FixtureRequest
) -> None:
    place = place_on(disk, obuilder, request)
    seed = int(os.environ.get("OBUILDER_SEED", "1"))
    chance = random.Random(f"{seed}-{request.node.callspec.id}")
    wrong: list[str] = []
    seen = 0
    for begin in range(0, CUTS, PER_RUN):
        with disk.powered():
            obuilder("clean")
            os.sync()
            cut_while_building(obuilder, disk, chance, min(PER_RUN, CUTS - begin))
            good = {name: each.results for name, each in look_at(place).items()}
        for cut in disk.cuts:
            with disk.powered(cut):
                found, count = examined(obuilder, place, good)
                seen += count
                wrong += [f"{cut.name} of {begin}, seed {seed}: {each}" for each in found]
            cut.unlink()
        disk.cuts.clear()
    told = f"{CUTS} cuts on {request.node.callspec.id}, seed {seed}: {seen} results looked into"
    sys.stdout.write(f"{told}\n")
    assert not wrong, "\n".join([told, *wrong])


def examined(
    obuilder: Command, place: Place, good: Mapping[str, Mapping[str, Tree]]
) -> tuple[list[str], int]:
    """What is wrong with a store after a cut, and how many results it had."""
    opened = obuilder("delete", "0" * 64)
    assert b"there is no result" in opened.stderr, opened.stderr
    look = look_at(place)
    wrong = wrong_results(look, good)
    again = obuilder("build", "-f", str(obuilder.directory / "spec-a"), str(obuilder.source))
    if again.returncode:
        wrong.append(f"a build fails: {again.stderr!r}")
    checked = obuilder("fsck")
    if checked.returncode:
        wrong.append(f"then fsck says {checked.stdout!r}")
    wrong += wrong_results(look_at(place), good)
    return wrong, len(look["store"].results)
