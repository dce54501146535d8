"""The docker fetcher keeps the promises of a fetcher, with a real engine."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from support.docker_engine import DockerEngine
from support.rich_base import ENTRIES, FILES, LINKS, make_rich_tarball

from obuilder.testing import FetcherContract
from obuilder_fetcher_docker import DockerFetcher


@pytest.mark.timeout(300)
class TestDockerFetcher(FetcherContract):
    """All the promises."""

    @pytest.fixture
    def open_fetcher(
        self, engine: DockerEngine
    ) -> Callable[[], AbstractAsyncContextManager[DockerFetcher]]:
        return lambda: DockerFetcher.open(DockerFetcher.Config(host=engine.host))

    @pytest.fixture
    def options(self, engine: DockerEngine) -> str:
        return json.dumps({"host": engine.host})

    @pytest.fixture
    def base(self, engine: DockerEngine, tmp_path: Path) -> str:
        if not engine.docker("image", "ls", "--quiet", "rich"):
            make_rich_tarball(tmp_path / "rich.tar")
            engine.docker("import", str(tmp_path / "rich.tar"), "rich")
        return "rich"

    @pytest.fixture
    def missing_base(self) -> str:
        # Nothing listens at that port: no registry is asked for long.
        return "localhost:1/missing:1"

    @pytest.fixture
    def expected_files(self) -> Mapping[str, bytes]:
        return FILES

    @pytest.fixture
    def expected_entries(self) -> Mapping[str, tuple[int, int, int]]:
        return ENTRIES

    @pytest.fixture
    def expected_links(self) -> Mapping[str, str]:
        return LINKS
