"""The contract of stores over a configured one; pytest collects it, started by `conformance`."""

from collections.abc import Iterator

import pytest

from obuilder._cli.conformance_child import Candidate
from obuilder.testing import StoreContract
from obuilder.testing._tools import OpenStore

__all__ = ["TestStore"]


class TestStore(StoreContract):
    """Each test has a new store, which is removed after it."""

    @pytest.fixture
    def location(self, candidate: Candidate) -> Iterator[str]:
        """Where this test's store lies."""
        yield from candidate.place()

    @pytest.fixture
    def options(self, candidate: Candidate) -> str:
        """The configured options."""
        return candidate.options()

    @pytest.fixture
    def open_store(self, candidate: Candidate, location: str) -> OpenStore:
        """Opens the configured driver's store."""
        return lambda: candidate.backend.open(location, candidate.config)
