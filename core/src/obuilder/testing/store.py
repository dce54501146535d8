"""The contract of stores: every promise of `obuilder.interfaces.Store` as a test."""

import pytest

from obuilder.testing._builds import BuildPromises
from obuilder.testing._caches import CachePromises
from obuilder.testing._crashes import CrashPromises
from obuilder.testing._space import SpacePromises
from obuilder.testing._streams import StreamPromises
from obuilder.testing._tools import Bench, OpenStore
from obuilder.testing._traces import KeepsMounts
from obuilder.testing._trees import LocalTrees, Trees

__all__ = ["StoreContract"]


@pytest.mark.anyio
class StoreContract(
    BuildPromises, SpacePromises, CachePromises, CrashPromises, StreamPromises, KeepsMounts
):
    """Subclass it, give the fixture `open_store`, and override another where a store needs it.

    `open_store` is a factory without arguments: each call opens a new object on
    one location, which is empty at first.
    """

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        """Both event loops; one that is not installed is a failure."""
        return str(request.param)

    @pytest.fixture
    def location(self) -> str | None:
        """What `Store.open` is given in another process; None: the path of the store's root."""
        return None

    @pytest.fixture
    def options(self) -> str:
        """The arguments of `Store.Config` in another process, as JSON."""
        return "{}"

    @pytest.fixture
    def trees(self) -> Trees:
        """How to look into a root file system."""
        return LocalTrees()

    @pytest.fixture
    def can_delete_middle(self) -> bool:
        """Whether deleting a result on which others were built leaves those whole.

        If not, `delete` must refuse it with StoreError.
        """
        return True

    @pytest.fixture
    def can_send_plain(self) -> bool:
        """Whether results can be sent as the core's own stream: `rootfs` is a local directory."""
        return True

    @pytest.fixture
    def bench(  # noqa: PLR0917 - pytest gives them by name
        self,
        open_store: OpenStore,
        trees: Trees,
        location: str | None,
        options: str,
        can_send_plain: bool,
        anyio_backend_name: str,
    ) -> Bench:
        """All of it; no need to override this."""
        return Bench(
            open_store=open_store,
            trees=trees,
            location=location,
            options=options,
            can_send_plain=can_send_plain,
            backend=anyio_backend_name,
        )
