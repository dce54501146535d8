"""The archive fetcher keeps the promises of a fetcher."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import pytest
from support.rich_base import ENTRIES, FILES, LINKS, make_rich_tarball
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
        make_rich_tarball(context.spec_dir / "rich.tar")
        return "archive:rich.tar"

    @pytest.fixture
    def missing_base(self) -> str:
        return "archive:missing.tar"

    @pytest.fixture
    def expected_files(self) -> Mapping[str, bytes]:
        return FILES

    @pytest.fixture
    def expected_entries(self) -> Mapping[str, tuple[int, int, int]]:
        return ENTRIES

    @pytest.fixture
    def expected_links(self) -> Mapping[str, str]:
        return LINKS


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
    make_rich_tarball(tmp_path / "rich.tar")
    argv = ["conformance", "--fetcher=archive", "--base", "archive:rich.tar"]
    with busy(tmp_path):
        tried = CliRunner().invoke(app, [*argv, "--only", "nothing is written", "--only", "killed"])
    assert tried.exit_code == 0, tried.output
    assert tried.stdout.splitlines() == [
        "kept    nothing is written beside the root and the scratch",
        "kept    a killed fetch can be repeated by another process",
        "2 promises: 2 kept, 0 broken",
    ]
