"""The contract of sandboxes: every promise of `obuilder.interfaces.Sandbox` as a test."""

from pathlib import Path

import pytest

from obuilder.testing._sandbox_bench import OpenSandbox, SandboxBench, make_busybox_root
from obuilder.testing._sandbox_builders import BuilderPromises
from obuilder.testing._sandbox_ends import EndPromises
from obuilder.testing._sandbox_secrets import SecretPromises
from obuilder.testing._sandbox_views import ViewPromises
from obuilder.testing._traces import KeepsMounts

__all__ = ["SandboxContract"]


@pytest.mark.anyio
class SandboxContract(ViewPromises, SecretPromises, EndPromises, BuilderPromises, KeepsMounts):
    """Subclass it, give the fixture `open_sandbox`, and override another where a sandbox needs it.

    `open_sandbox` is a factory without arguments: each call opens a new object on
    the directory `state_dir`. The suite looks into the root by commands alone, and they may run
    on another machine. What a sandbox lacks it says by a fixture `can_…` that returns False, and
    then must refuse with BuildError.
    """

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        """Both event loops; one that is not installed is a failure."""
        return str(request.param)

    @pytest.fixture
    def state_dir(self, tmp_path: Path) -> Path:
        """The directory of the sandbox's own. There is a blank in it, which mount tables escape."""
        return tmp_path / "sandbox state"

    @pytest.fixture
    def options(self) -> str:
        """The arguments of `Sandbox.Config` in another process, as JSON."""
        return "{}"

    @pytest.fixture
    def rootfs(self, tmp_path: Path) -> Path:
        """A root with a busybox and all its applets in `/bin`."""
        root = tmp_path / "result" / "rootfs"
        make_busybox_root(root)
        return root

    @pytest.fixture
    def other_rootfs(self, tmp_path: Path) -> Path:
        """Another of the same."""
        root = tmp_path / "other result" / "rootfs"
        make_busybox_root(root)
        return root

    @pytest.fixture
    def can_isolate_network(self) -> bool:
        """Whether a command without `network` sees no network."""
        return True

    @pytest.fixture
    def can_use_host_network(self) -> bool:
        """Whether a command with `network` `host` sees this machine's."""
        return True

    @pytest.fixture
    def can_mount(self) -> bool:
        """Whether it has mounts, which caches need."""
        return True

    @pytest.fixture
    def can_show_secrets(self) -> bool:
        """Whether it has secrets."""
        return True

    @pytest.fixture
    def can_set_user(self) -> bool:
        """Whether commands may run as another user than root."""
        return True

    @pytest.fixture
    def bench(  # noqa: PLR0913, PLR0917 - pytest gives them by name
        self,
        open_sandbox: OpenSandbox,
        state_dir: Path,
        options: str,
        rootfs: Path,
        other_rootfs: Path,
        anyio_backend_name: str,
        can_isolate_network: bool,
        can_use_host_network: bool,
        can_mount: bool,
        can_show_secrets: bool,
        can_set_user: bool,
    ) -> SandboxBench:
        """All of it; no need to override this."""
        return SandboxBench(
            open_sandbox=open_sandbox,
            state_dir=state_dir,
            options=options,
            rootfs=rootfs,
            other_rootfs=other_rootfs,
            backend=anyio_backend_name,
            can_isolate_network=can_isolate_network,
            can_use_host_network=can_use_host_network,
            can_mount=can_mount,
            can_show_secrets=can_show_secrets,
            can_set_user=can_set_user,
        )
