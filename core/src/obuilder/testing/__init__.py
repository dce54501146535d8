"""Contract suites that every backend must pass, ours and yours; needs `obuilder[testing]`.

::

    from obuilder.testing import StoreContract

    class TestFooStore(StoreContract):
        @pytest.fixture
        def open_store(self, tmp_path):
            return lambda: FooStore.open(str(tmp_path), FooStore.Config())

Each test is a promise of `obuilder.interfaces`, and its name says which. All
run on asyncio and on trio.
"""

import pytest

# Before they are imported: a failure shows the values.
pytest.register_assert_rewrite(
    "obuilder.testing._builds",
    "obuilder.testing._caches",
    "obuilder.testing._crashes",
    "obuilder.testing._fetcher_bench",
    "obuilder.testing._fetcher_ends",
    "obuilder.testing._fetcher_roots",
    "obuilder.testing._form",
    "obuilder.testing._orphans",
    "obuilder.testing._sandbox_bench",
    "obuilder.testing._sandbox_builders",
    "obuilder.testing._sandbox_ends",
    "obuilder.testing._sandbox_other",
    "obuilder.testing._sandbox_secrets",
    "obuilder.testing._sandbox_views",
    "obuilder.testing._space",
    "obuilder.testing._streams",
    "obuilder.testing._tools",
    "obuilder.testing._traces",
    "obuilder.testing._trees",
    "obuilder.testing.fetcher",
    "obuilder.testing.sandbox",
    "obuilder.testing.store",
)

from obuilder.testing._trees import LocalTrees, Trees  # noqa: E402 - see above
from obuilder.testing.fetcher import FetcherContract  # noqa: E402 - see above
from obuilder.testing.sandbox import SandboxContract  # noqa: E402 - see above
from obuilder.testing.store import StoreContract  # noqa: E402 - see above

__all__ = ["FetcherContract", "LocalTrees", "SandboxContract", "StoreContract", "Trees"]
