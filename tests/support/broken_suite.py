"""The contract over each broken store; run by test_broken_stores.py, not collected by itself."""

from pathlib import Path

import pytest
from support.broken_stores import BROKEN

from obuilder.testing import StoreContract, _crashes
from obuilder.testing._tools import OpenStore

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


for _kind in BROKEN:
    globals()[f"Test{_kind.__name__}"] = type(
        f"Test{_kind.__name__}", (_OneStore,), {"kind": _kind, "__module__": __name__}
    )
