"""The archive fetcher keeps the promises of a fetcher."""

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import pytest
from support.images import busybox_tarball
from typer.testing import CliRunner

from obuilder._cli.app import app
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


@contextmanager
def busy(directory: Path) -> Iterator[None]:
    """Somebody else writes there during the block."""
    ended = threading.Event()

    def write() -> None:
        count = 0
        while not ended.wait(0.001):
            count += 1
            (directory / f"log {count}").touch()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()


def test_the_command_line_tries_it_in_a_directory_where_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(busybox_tarball(), tmp_path / "busybox.tar")
    argv = ["conformance", "--fetcher=archive", "--base", "archive:busybox.tar"]
    with busy(tmp_path):
        tried = CliRunner().invoke(app, [*argv, "--only", "nothing is written"])
    assert tried.exit_code == 0, tried.output
    assert tried.stdout.splitlines() == [
        "kept    nothing is written beside the root and the scratch",
        "1 promise: 1 kept, 0 broken",
    ]
