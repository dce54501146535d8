"""Promises of sandboxes about secrets and mounts: who sees them, and what is left of them."""

import os
import secrets
from pathlib import Path
from typing import Any

import anyio
import pytest

from obuilder.errors import BuildError, CommandFailed
from obuilder.testing._sandbox_bench import SandboxBench
from obuilder.testing._tools import LIMIT_S
from obuilder.testing._traces import mounts, processes_with
from obuilder.types import Mount, Secret, User

__all__ = ["SecretPromises"]


class SecretPromises:
    """See SandboxContract."""

    async def test_a_secret_is_there_for_its_run_alone(self, bench: SandboxBench) -> None:
        given = (
            Secret(target="/run/one", value=b"first\0value"),
            Secret(target="/run/deep/two", value=b"unheard-of value"),
        )
        if not bench.can_show_secrets:
            with pytest.raises(BuildError):
                await bench.run("true", secrets=given)
            return
        write = "echo changed 2>/dev/null > /run/one || echo refused"
        said = await bench.run(f"cat /run/one /run/deep/two; echo; {write}", secrets=given)
        assert said == b"first\0valueunheard-of value\nrefused\n"
        # What is left may be what it was shown at, but empty.
        assert await bench.run("find /run -type f -exec cat {} +") == b""
        files = [path for path in bench.state_dir.rglob("*") if path.is_file()]
        assert [path for path in files if b"unheard-of value" in path.read_bytes()] == []

    async def test_a_secret_can_be_read_by_the_user_of_the_command(
        self, bench: SandboxBench
    ) -> None:
        given = (Secret(target="/run/secret", value=b"for this user"),)
        if not bench.can_show_secrets or not bench.can_set_user:
            with pytest.raises(BuildError):
                await bench.run("true", secrets=given, user=User(uid=1000, gid=1001))
            return
        said = await bench.run("cat /run/secret", secrets=given, user=User(uid=1000, gid=1001))
        assert said == b"for this user"

    async def test_a_secret_is_in_no_argument_and_no_environment(self, bench: SandboxBench) -> None:
        value = secrets.token_hex(16).encode()
        given = (Secret(target="/run/secret", value=value),)
        if not bench.can_show_secrets:
            with pytest.raises(BuildError):
                await bench.run("true", secrets=given)
            return
        reader, writer = os.pipe()
        config = bench.config("cat /run/secret; echo; cat; true", secrets=given)
        try:
            with anyio.fail_after(LIMIT_S):
                async with bench.open_sandbox() as sandbox, anyio.create_task_group() as tasks:

                    async def run() -> None:
                        await sandbox.run(config, bench.rootfs, log=bench.log, stdin=reader)

                    tasks.start_soon(run)
                    try:
                        await bench.log.wait_for(value + b"\n")
                        found = processes_with(value)
                    finally:
                        os.close(writer)
        finally:
            os.close(reader)
        assert found == []

    @pytest.mark.parametrize("status", [0, 3])
    async def test_a_run_with_secrets_and_mounts_leaves_nothing_mounted(
        self, bench: SandboxBench, tmp_path: Path, status: int
    ) -> None:
        (tmp_path / "cache").mkdir()
        asked: dict[str, Any] = {}
        if bench.can_show_secrets:
            asked["secrets"] = (Secret(target="/run/secret", value=b"hidden"),)
        if bench.can_mount:
            asked["mounts"] = (Mount(source=tmp_path / "cache", target="/cache"),)
        mounted = mounts(bench.top)
        async with bench.open_sandbox() as sandbox:
            config = bench.config(f"exit {status}", **asked)
            try:
                await sandbox.run(config, bench.rootfs, log=bench.log)
            except CommandFailed as error:
                assert error.status == status  # noqa: PT017 - half of the runs raise nothing
            assert mounts(bench.top) - mounted == set()
