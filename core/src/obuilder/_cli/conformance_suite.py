"""The contracts over configured backends; pytest collects it, started by `conformance`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from obuilder._cli.conformance_child import Candidate
from obuilder.testing import FetcherContract, SandboxContract, StoreContract
from obuilder.testing._fetcher_bench import OpenFetcher
from obuilder.testing._sandbox_bench import OpenSandbox
from obuilder.testing._tools import OpenStore
from obuilder.types import FetchContext

__all__ = ["TestFetcher", "TestSandbox", "TestStore"]


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


class TestSandbox(SandboxContract):
    """Each test has a state directory of its own."""

    @pytest.fixture
    def options(self, candidate: Candidate) -> str:
        """The configured options."""
        return candidate.options()

    @pytest.fixture
    def open_sandbox(self, candidate: Candidate, state_dir: Path) -> OpenSandbox:
        """Opens the configured driver's sandbox."""
        return lambda: candidate.backend.open(state_dir, candidate.config)


class TestFetcher(FetcherContract):
    """Fetches the bases that the command line names."""

    # Nobody has said what they hold: it would be kept whatever the fetcher does.
    test_owners_modes_and_links_are_those_of_the_base: Any = None

    @pytest.fixture
    def options(self, candidate: Candidate) -> str:
        """The configured options."""
        return candidate.options()

    @pytest.fixture
    def context(self, candidate: Candidate, tmp_path: Path) -> FetchContext:
        """As if a spec in the working directory named the base."""
        (tmp_path / "source").mkdir()
        return FetchContext(
            platform=candidate.settings.platform,
            spec_dir=Path.cwd(),
            source_dir=tmp_path / "source",
        )

    @pytest.fixture
    def base(self, candidate: Candidate) -> str:
        """That there is."""
        return candidate.task.base or ""

    @pytest.fixture
    def missing_base(self, candidate: Candidate) -> str:
        """That there is not."""
        return candidate.task.missing_base or f"{candidate.task.base}-that-is-missing"

    @pytest.fixture
    def open_fetcher(self, candidate: Candidate) -> OpenFetcher:
        """Opens the configured driver's fetcher."""
        return lambda: candidate.backend.open(candidate.config)
