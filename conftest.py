"""What every test of the workspace shares: both event loops."""

import pytest

pytest_plugins = [
    "support.command",
    "support.docker_engine",
    "support.filesystems",
    "support.processes",
    "support.wheels",
    "support.zfs_pools",
]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
