"""The contracts over each broken backend; test_broken_backends.py runs it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import anyio
import pytest
from support.broken_caches import BROKEN_CACHES
from support.broken_fetchers import BROKEN_FETCHERS
from support.broken_sandboxes import BROKEN_SANDBOXES
from support.broken_stores import BROKEN
from support.broken_streams import BROKEN_STREAMS
from support.leaky_sandboxes import LEAKY_SANDBOXES, LeavesAFileOfTheMachines
from support.rich_base import ENTRIES, FILES, LINKS, make_rich_tarball

from obuilder.process import run
from obuilder.testing import (
    FetcherContract,
    SandboxContract,
    StoreContract,
    _crashes,
    _logs,
    _orphans,
    _sandbox_bench,
    _sandbox_builders,
    _sandbox_ends,
    _sandbox_other,
    _sandbox_secrets,
    _sandbox_views,
)
from obuilder.testing._fetcher_bench import OpenFetcher
from obuilder.testing._sandbox_bench import OpenSandbox
from obuilder.testing._tools import OpenStore, new_id
from obuilder.testing._traces import mounts
from obuilder.types import FetchContext
from obuilder_sandbox_runc import RuncSandbox

__all__: list[str] = []


class _OneStore(StoreContract):
    @pytest.fixture(autouse=True)
    def impatience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # For the one that waits for itself.
        monkeypatch.setattr(_crashes, "LIMIT_S", 5.0)

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        kind = self.kind  # type: ignore[attr-defined]  # each class below has one
        return lambda: kind.open(str(tmp_path / "store"), kind.Config())

    async def test_it_works_at_all(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            id = new_id()
            async with store.build(id) as path:
                (path / "file").write_text("whole")
            saved = await store.result(id)
            assert saved is not None
            assert (saved / "file").read_text() == "whole"


class _OneSandbox(SandboxContract):
    @pytest.fixture(autouse=True)
    def impatience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # For those that wait for what does not come.
        parts = (_sandbox_builders, _sandbox_ends, _sandbox_secrets, _sandbox_views)
        for module in (_sandbox_bench, _sandbox_other, *parts):
            monkeypatch.setattr(module, "LIMIT_S", 5.0)
        monkeypatch.setattr(_logs, "_LIMIT_S", 3.0)

    @pytest.fixture(autouse=True)
    def cleaned(self, state_dir: Path) -> Iterator[None]:
        """What the faults leave does not outlive the test."""
        yield
        if state_dir.exists():
            anyio.run(_clean, state_dir)
        while LeavesAFileOfTheMachines.MADE:
            LeavesAFileOfTheMachines.MADE.pop().unlink(missing_ok=True)

    @pytest.fixture
    def open_sandbox(self, state_dir: Path) -> OpenSandbox:
        kind = self.kind  # type: ignore[attr-defined]  # each class below has one
        return lambda: kind.open(state_dir, kind.Config())

    async def test_it_works_at_all(self, open_sandbox: OpenSandbox) -> None:
        async with open_sandbox():
            pass


class _OneFetcher(FetcherContract):
    @pytest.fixture(autouse=True)
    def impatience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # For those that leave a daemon.
        monkeypatch.setattr(_orphans, "GRACE_S", 1.0)

    @pytest.fixture(autouse=True)
    def cleaned(self, tmp_path: Path) -> Iterator[None]:
        """What the faults leave does not outlive the test."""
        yield
        anyio.run(_unmount, tmp_path)

    @pytest.fixture
    def open_fetcher(self) -> OpenFetcher:
        kind = self.kind  # type: ignore[attr-defined]  # each class below has one
        return lambda: kind.open(kind.Config())

    async def test_it_works_at_all(self, open_fetcher: OpenFetcher) -> None:
        async with open_fetcher():
            pass

    @pytest.fixture
    def base(self, context: FetchContext) -> str:
        assert context.spec_dir
        make_rich_tarball(context.spec_dir / "rich.tar")
        return "archive:rich.tar"

    @pytest.fixture
    def missing_base(self) -> str:
        return "archive:missing.tar"

    @pytest.fixture
    def expected_files(self) -> dict[str, bytes]:
        return FILES

    @pytest.fixture
    def expected_entries(self) -> dict[str, tuple[int, int, int]]:
        return ENTRIES

    @pytest.fixture
    def expected_links(self) -> dict[str, str]:
        return LINKS


async def _clean(state_dir: Path) -> None:
    async with RuncSandbox.open(state_dir, RuncSandbox.Config()) as sandbox:
        for leftover in await sandbox.leftovers():
            await sandbox.discard(leftover)
    await _unmount(state_dir.parent)


async def _unmount(directory: Path) -> None:
    for line in mounts(directory):
        await run(("umount", line.split()[4].replace("\\040", " ")))


def _collected(contract: type, kinds: Iterable[type]) -> None:
    for kind in kinds:
        name = f"Test{kind.__name__}"
        globals()[name] = type(name, (contract,), {"kind": kind, "__module__": __name__})


_collected(_OneStore, (*BROKEN, *BROKEN_CACHES, *BROKEN_STREAMS))
_collected(_OneSandbox, (*BROKEN_SANDBOXES, *LEAKY_SANDBOXES))
_collected(_OneFetcher, BROKEN_FETCHERS)
