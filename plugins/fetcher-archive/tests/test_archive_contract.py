"""The archive fetcher keeps the promises of a fetcher."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

import pytest
from support.images import busybox_tarball

from obuilder.testing import FetcherContract
from obuilder.types import FetchContext
from obuilder_fetcher_archive import ArchiveFetcher


class TestArchiveFetcher(FetcherContract):
    """All the promises."""

    @pytest.fixture
    def open_fetcher(self) -> Callable[[], AbstractAsyncContextManager[ArchiveFetcher]]:
        return lambda: ArchiveFetcher.open(ArchiveFetcher.Config())

    @pytest.fixture
    def base(self, context: FetchContext) -> str:
        assert context.spec_dir
        shutil.copy(busybox_tarball(), context.spec_dir / "busybox.tar")
        return "archive:busybox.tar"

    @pytest.fixture
    def missing_base(self) -> str:
        return "archive:missing.tar"

    @pytest.fixture
    def expected_files(self) -> Mapping[str, bytes]:
        return {"etc/group": b"root:x:0:\n"}
