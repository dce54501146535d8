"""What cannot be run, or not here, is an error that says what, why, and what to do."""

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from obuilder.errors import BuildError, CommandFailed, ConfigError, SandboxError
from obuilder.interfaces import BuildLog
from obuilder.types import Mount, RunConfig, Secret, User
from obuilder_sandbox_runc import RuncSandbox

pytestmark = pytest.mark.anyio

Run = Callable[..., Awaitable[bytes]]
Open = Callable[..., AbstractAsyncContextManager[RuncSandbox]]
Make = Callable[..., RunConfig]


@pytest.mark.parametrize(
    ("argv", "said_about_it"),
    [
        (["/bin/missing"], b"no such file"),
        (["missing"], b"not found in $PATH"),
        (["/bin"], b"permission denied"),
        (["/etc/text"], b"exec format error"),
        (["/bin/sh", "-c", "a\0b"], b"invalid argument"),
    ],
)
async def test_a_command_that_cannot_be_started_failed(
    run: Run, said: Callable[[], bytes], rootfs: Path, *, argv: list[str], said_about_it: bytes
) -> None:
    (rootfs / "etc").mkdir()
    (rootfs / "etc/text").write_text("not a program")
    (rootfs / "etc/text").chmod(0o755)
    with pytest.raises(CommandFailed) as caught:
        await run(argv)
    assert caught.value.status == 1
    assert caught.value.argv == tuple(argv)
    assert said_about_it in said().lower().replace(b"$path", b"$PATH")


@pytest.mark.parametrize(
    ("fields", "said_about_it"),
    [
        ({"cwd": "C:/x"}, b"Cwd must be an absolute path"),
        ({"cwd": ""}, b"Cwd property must not be empty"),
        ({"cwd": "/bin/busybox"}, b"not a directory"),
        ({"cwd": "/a\0b"}, b"invalid argument"),
        ({"env": (("A", "b\0c"),)}, b"null"),
        ({"user": User(uid=2**31, gid=0)}, b"must be in range"),
        ({"secrets": (Secret(target="/bin/busybox/x", value=b"hidden"),)}, b"not a directory"),
        ({"secrets": (Secret(target="/proc/1/x", value=b"hidden"),)}, b"/proc"),
    ],
)
async def test_what_the_spec_chose_wrongly_fails_the_step_and_is_told_in_the_log(
    run: Run, said: Callable[[], bytes], fields: dict[str, object], said_about_it: bytes
) -> None:
    with pytest.raises(CommandFailed) as caught:
        await run("true", **fields)
    assert caught.value.status == 1
    assert said_about_it in said()
    assert b"hidden" not in said()


async def test_a_cache_on_a_file_fails_the_step(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    mount = Mount(source=tmp_path / "cache", target="/bin/busybox")
    with pytest.raises(CommandFailed):
        await run("true", mounts=(mount,))


async def test_a_root_that_is_missing_is_the_sandboxes_failure(
    open_sandbox: Open, config: Make, tmp_path: Path, log: BuildLog, left: Callable[[], list[str]]
) -> None:
    async with open_sandbox() as sandbox:
        with pytest.raises(SandboxError, match="no such file") as caught:
            await sandbox.run(config("true"), tmp_path / "missing", log=log)
        assert caught.value.code == "sandbox.runtime"
        assert left() == []


async def test_a_cache_that_is_missing_is_the_sandboxes_failure(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="no such file"):
        await run("true", mounts=(Mount(source=tmp_path / "missing", target="/c"),))


async def test_a_runtime_that_does_not_work_is_quoted(
    open_sandbox: Open, config: Make, rootfs: Path, log: BuildLog, *, tmp_path: Path
) -> None:
    for script, text in (
        ("exit 1", "does not say why"),
        ('echo \'{"level":"error","msg":"no cgroup here"}\' >"$4"; exit 1', "no cgroup here"),
        ('echo \'{"level":"error","msg":"exec: no space left"}\' >"$4"; exit 1', "no space left"),
        ('echo "not json" >"$4"; exit 3', "does not say why"),
    ):
        runtime = tmp_path / "broken-runtime"
        runtime.write_text(f"#!/bin/sh\n{script}\n")
        runtime.chmod(0o755)
        async with open_sandbox(runtime=str(runtime)) as sandbox:
            with pytest.raises(SandboxError, match=text) as caught:
                await sandbox.run(config("true"), rootfs, log=log)
            assert caught.value.code == "sandbox.runtime"


async def test_a_runtime_that_vanished_is_the_sandboxes_failure(
    open_sandbox: Open, config: Make, rootfs: Path, log: BuildLog, *, tmp_path: Path
) -> None:
    runtime = tmp_path / "runtime"
    runtime.write_text("#!/bin/sh\n")
    runtime.chmod(0o755)
    async with open_sandbox(runtime=str(runtime)) as sandbox:
        runtime.unlink()
        with pytest.raises(SandboxError):
            await sandbox.run(config("true"), rootfs, log=log)
        assert await sandbox.leftovers() == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"network": ("foo",)}, "sandbox.network"),
        ({"user": User(uid=-1, gid=0)}, "sandbox.user"),
        ({"cwd": "/\udce9"}, "sandbox.not-utf8"),
    ],
)
async def test_what_no_runtime_can_be_asked_is_refused_before_it_runs(
    run: Run, said: Callable[[], bytes], fields: dict[str, object], code: str
) -> None:
    with pytest.raises(BuildError) as caught:
        await run("echo ran", **fields)
    assert caught.value.code == code
    assert said() == b""


async def test_a_bundle_that_cannot_be_made_is_the_sandboxes_failure(
    open_sandbox: Open, config: Make, rootfs: Path, log: BuildLog, *, state_dir: Path
) -> None:
    async with open_sandbox() as sandbox:
        full = config("true", secrets=(Secret(target="/x", value=b""),) * 2, id="x" * 300)
        with pytest.raises(SandboxError, match="File name too long") as caught:
            await sandbox.run(full, rootfs, log=log)
        assert caught.value.code == "sandbox.bundle"


async def test_without_mount_a_secret_is_refused_and_never_touches_the_disk(
    open_sandbox: Open,
    config: Make,
    rootfs: Path,
    log: BuildLog,
    monkeypatch: pytest.MonkeyPatch,
    *,
    tmp_path: Path,
    left: Callable[[], list[str]],
) -> None:
    async with open_sandbox() as sandbox:
        monkeypatch.setenv("PATH", str(tmp_path))
        step = config("true", secrets=(Secret(target="/x", value=b"hidden"),))
        with pytest.raises(SandboxError, match="mount") as caught:
            await sandbox.run(step, rootfs, log=log)
        assert "apt-get install" in (caught.value.hint or "")
        assert left() == []


async def test_an_unknown_runtime_is_refused_with_what_to_do(open_sandbox: Open) -> None:
    with pytest.raises(ConfigError, match="no-such-runtime") as caught:
        async with open_sandbox(runtime="no-such-runtime"):
            pytest.fail("opened")
    assert caught.value.code == "sandbox.no-runtime"
    assert caught.value.where == "runc.runtime"
    assert "apt-get install runc" in (caught.value.hint or "")


async def test_a_runtime_outside_an_ordinary_users_path_is_found(
    open_sandbox: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    async with open_sandbox() as sandbox:
        assert os.access(sandbox._runtime.program, os.X_OK)


async def test_a_state_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        async with RuncSandbox.open(tmp_path / "file" / "below", RuncSandbox.Config()):
            pytest.fail("opened")
    assert caught.value.code == "sandbox.state-dir"


async def test_the_state_is_roots_alone(open_sandbox: Open, state_dir: Path) -> None:
    async with open_sandbox():
        for directory in (state_dir, state_dir / "bundles", state_dir / "runc"):
            assert directory.stat().st_mode & 0o777 == 0o700


async def test_without_root_it_is_refused_with_what_to_do(tmp_path: Path) -> None:
    code = """
import os, sys, anyio
from pathlib import Path
from obuilder.errors import ConfigError
from obuilder_sandbox_runc import RuncSandbox

async def main():
    try:
        async with RuncSandbox.open(Path(sys.argv[1]), RuncSandbox.Config()):
            print("opened")
    except ConfigError as error:
        print(error.code, "|", error.hint)

async def warm():
    pass

anyio.run(warm)
os.setuid(65534)
anyio.run(main)
"""
    done = await anyio.run_process([sys.executable, "-c", code, str(tmp_path / "state")])
    assert done.stdout == b"sandbox.not-root | run it with sudo\n"
