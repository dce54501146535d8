"""How the tests are shared out when pytest has several processes (`-n`).

The tests of a file share what the file's fixtures set up: they stay together.
So do all with a pool, for there is one zfs-fuse on a machine. They take longest
and begin first; the VMs, which need all processors, begin last.
"""

from pathlib import PurePath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

__all__ = ["Scheduling"]

_ZFS = PurePath("plugins/store-zfs/tests")
_IN_VM = _ZFS / "test_zfs_vm.py"


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives a free process the tests of the next file."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # keep the order of `pytest_collection_modifyitems`

    def _split_scope(self, nodeid: str) -> str:
        return _shared(PurePath(nodeid.split("::", 1)[0])).as_posix()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Ours, unless `--dist` asks for another: `load` is what `-n` alone means."""
    return Scheduling(config, log) if config.option.dist == "load" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "zfs_pool" in getattr(item, "fixturenames", ()) and _path(item).parent != _ZFS:
            raise pytest.UsageError(f"{item.nodeid} needs a zfs pool: move it to {_ZFS}")
    items.sort(key=_turn)  # it is stable


def _path(item: pytest.Item) -> PurePath:
    return PurePath(item.nodeid.split("::", 1)[0])


def _shared(path: PurePath) -> PurePath:
    return _ZFS if path.parent == _ZFS and path != _IN_VM else path


def _turn(item: pytest.Item) -> int:
    return {_ZFS: 0, _IN_VM: 2}.get(_shared(_path(item)), 1)
