"""The contract of fetchers: every promise of `obuilder.interfaces.Fetcher` as a test."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from obuilder._platforms import machine_platform
from obuilder.testing._fetcher_bench import Entry, FetcherBench, OpenFetcher
from obuilder.testing._fetcher_ends import EndPromises
from obuilder.testing._fetcher_roots import RootPromises
from obuilder.testing._traces import KeepsMounts
from obuilder.types import FetchContext

__all__ = ["FetcherContract"]


@pytest.mark.anyio
class FetcherContract(EndPromises, RootPromises, KeepsMounts):
    """Subclass it and give the fixtures `open_fetcher`, `base` and `missing_base`.

    `open_fetcher` is a factory without arguments: each call opens a new object.
    What is in `base` the suite cannot know: the fixtures `expected_…` say it.
    """

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        """Both event loops; one that is not installed is a failure."""
        return str(request.param)

    @pytest.fixture
    def options(self) -> str:
        """The arguments of `Fetcher.Config` in another process, as JSON."""
        return "{}"

    @pytest.fixture
    def expected_files(self) -> Mapping[str, bytes]:
        """What some files of `base` hold, by their paths in it. None: not looked at."""
        return {}

    @pytest.fixture
    def expected_entries(self) -> Mapping[str, Entry]:
        """`st_mode`, owner and group of some files of `base`, by their paths in it."""
        return {}

    @pytest.fixture
    def expected_links(self) -> Mapping[str, str]:
        """What some links of `base` lead to, by their paths in it.

        Of a symbolic link its text, of a hard one the path of the same file.
        """
        return {}

    @pytest.fixture
    def context(self, tmp_path: Path) -> FetchContext:
        """Where the base's text comes from: empty directories for spec and source."""
        for name in ("spec", "source"):
            (tmp_path / name).mkdir()
        return FetchContext(
            platform=machine_platform(), spec_dir=tmp_path / "spec", source_dir=tmp_path / "source"
        )

    @pytest.fixture
    def bench(  # noqa: PLR0913, PLR0917 - pytest gives them by name
        self,
        open_fetcher: OpenFetcher,
        base: str,
        missing_base: str,
        expected_files: Mapping[str, bytes],
        expected_entries: Mapping[str, Entry],
        expected_links: Mapping[str, str],
        context: FetchContext,
        options: str,
        tmp_path: Path,
        anyio_backend_name: str,
    ) -> FetcherBench:
        """All of it; no need to override this."""
        return FetcherBench(
            open_fetcher=open_fetcher,
            base=base,
            missing_base=missing_base,
            expected_files=expected_files,
            expected_entries=expected_entries,
            expected_links=expected_links,
            context=context,
            options=options,
            directory=tmp_path / "roots",
            backend=anyio_backend_name,
        )
