"""The runc sandbox keeps the promises of a sandbox."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from obuilder.testing import SandboxContract
from obuilder_sandbox_runc import RuncSandbox


@pytest.mark.usefixtures("_can_run")
class TestRuncSandbox(SandboxContract):
    """All the promises."""

    @pytest.fixture
    def open_sandbox(
        self, state_dir: Path
    ) -> Callable[[], AbstractAsyncContextManager[RuncSandbox]]:
        return lambda: RuncSandbox.open(state_dir, RuncSandbox.Config())
