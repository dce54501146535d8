"""The docker fetcher keeps the promises of a fetcher, with a real engine."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

import pytest
from support.docker_engine import DockerEngine

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
    def base(self) -> str:
        return "busybox"

    @pytest.fixture
    def missing_base(self) -> str:
        # Nothing listens at that port: no registry is asked for long.
        return "localhost:1/missing:1"

    @pytest.fixture
    def expected_files(self) -> Mapping[str, bytes]:
        return {"etc/group": b"root:x:0:\n"}
