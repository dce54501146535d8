"""The contract of stores, and what those with OBuilder's layout in a directory promise besides."""

import pytest
from support.store_tools import OpenStore, built, new_id

from obuilder.errors import ConfigError, StoreError
from obuilder.testing import StoreContract

__all__ = ["StorePromises"]


class StorePromises(StoreContract):
    """Give `open_store`, as for the contract."""

    async def test_the_layout_is_obuilders(self, open_store: OpenStore) -> None:
        id = new_id()
        async with open_store() as store:
            assert store.state_dir == store.root / "state"
            async with store.build(id) as path:
                assert path == store.root / "result-tmp" / id
            assert await store.result(id) == store.root / "result" / id
            found = {entry.name for entry in store.root.iterdir()}
            assert {"cache", "cache-tmp", "result", "result-tmp", "state"} <= found

    async def test_a_commit_that_fails_discards(self, open_store: OpenStore) -> None:
        id = new_id()
        async with open_store() as store:
            with pytest.raises(StoreError):
                async with store.build(id) as path:
                    # Whatever stands in the way of the rename.
                    (store.root / "result" / id).write_text("in the way")
            assert not path.exists()
            assert await store.result(id) is None

    async def test_a_relative_location_is_refused(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            backend = type(store)
        with pytest.raises(ConfigError, match="absolute") as caught:
            async with backend.open("some/where", backend.Config()):
                pytest.fail("opened")
        assert caught.value.hint
        assert caught.value.code == "store.location"

    async def test_a_location_that_is_a_file_is_refused(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            backend = type(store)
            file = store.root / "file"
            file.touch()
        for location in (file, file / "below"):
            with pytest.raises(ConfigError) as caught:
                async with backend.open(str(location), backend.Config()):
                    pytest.fail("opened")
            assert caught.value.hint
            assert caught.value.code == "store.location"

    async def test_a_missing_program_is_refused_with_the_package(
        self, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(ConfigError, match="not in PATH") as caught:
            async with open_store():
                pytest.fail("opened")
        assert "apt-get install" in (caught.value.hint or "")

    async def test_a_location_is_made_with_its_parents(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            backend, below = type(store), store.root / "some" / "where"
        async with backend.open(str(below), backend.Config()) as store:
            await built(store)
