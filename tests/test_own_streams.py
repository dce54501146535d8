"""Stores that send results in ways of their own keep the promises of streams."""

from pathlib import Path

import pytest
from support.streaming import Differing

from obuilder.testing import StoreContract
from obuilder.testing._streams import StreamPromises
from obuilder.testing._tools import OpenStore


@pytest.mark.anyio
class TestDifferences(StreamPromises):
    anyio_backend = StoreContract.anyio_backend
    bench = StoreContract.bench
    trees = StoreContract.trees
    options = StoreContract.options
    location = StoreContract.location
    can_send_plain = StoreContract.can_send_plain

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return lambda: Differing.open(str(tmp_path / "store"), Differing.Config())
