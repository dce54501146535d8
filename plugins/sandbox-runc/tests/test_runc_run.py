"""What a command in the sandbox sees, and what is seen of it."""

import json
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from obuilder.errors import CommandFailed
from obuilder.interfaces import BuildLog
from obuilder.types import Mount, Secret, User

pytestmark = pytest.mark.anyio

Run = Callable[..., Awaitable[bytes]]

IDS = Path(__file__).resolve().parents[3] / "tests/golden/ids.json"


async def test_a_signal_is_128_and_its_number(
    run: Run, wait_for: Callable[[bytes], Awaitable[None]], living: Callable[[], list[int]]
) -> None:
    caught: list[CommandFailed] = []

    async def fail() -> None:
        try:
            await run("echo ready; sleep 1000")
        except CommandFailed as error:
            caught.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail)
        await wait_for(b"ready")
        for pid in living():
            os.kill(pid, 9)
    assert [error.status for error in caught] == [128 + 9]


async def test_user_environment_and_host_name(run: Run) -> None:
    output = await run(
        ["/bin/env"],
        env=(("B", "1"), ("A", "two words=é"), ("HOME", "/h")),
        user=User(uid=5, gid=6),
    )
    assert output.decode() == "B=1\nA=two words=é\nHOME=/h\n"
    output = await run("id -u; id -g; hostname", user=User(uid=2**31 - 1, gid=7))
    assert output == b"2147483647\n7\nbuilder\n"


async def test_a_missing_working_directory_is_made_roots_0755(run: Run, rootfs: Path) -> None:
    before = os.umask(0o077)
    try:
        output = await run("pwd; umask", cwd="/new/dir é", user=User(uid=1000, gid=1000))
    finally:
        os.umask(before)
    assert output.decode() == "/new/dir é\n0022\n"
    for directory in ("new", "new/dir é"):
        made = (rootfs / directory).stat()
        assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid) == (0o755, 0, 0)


async def test_without_network_there_is_only_loopback(run: Run) -> None:
    output = await run("ls /sys/class/net; readlink /proc/self/ns/net; ls /etc")
    interfaces, namespace, files = output.decode().splitlines()
    assert interfaces == "lo"
    assert namespace != os.readlink("/proc/self/ns/net")
    assert files == "hosts"


async def test_with_network_host_it_is_the_hosts(run: Run) -> None:
    output = await run("readlink /proc/self/ns/net; cat /etc/resolv.conf", network=("host",))
    namespace, _, resolv_conf = output.partition(b"\n")
    assert namespace.decode() == os.readlink("/proc/self/ns/net")
    assert resolv_conf == Path("/etc/resolv.conf").read_bytes()


async def test_resolv_conf_cannot_be_changed_from_inside(run: Run) -> None:
    before = Path("/etc/resolv.conf").read_bytes()
    with pytest.raises(CommandFailed):
        await run("echo bad >/etc/resolv.conf", network=("host",))
    assert Path("/etc/resolv.conf").read_bytes() == before


async def test_a_host_without_resolv_conf_is_no_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obuilder_sandbox_runc.bundle.RESOLV_CONF", tmp_path / "missing")
    assert await run("ls /etc", network=("host",)) == b"hosts\n"


async def test_a_secret_is_its_users_alone_and_leaves_nothing(
    run: Run, rootfs: Path, tmp_path: Path
) -> None:
    secrets = (
        Secret(target="/run/one", value=b"first\0value"),
        Secret(target="/run/two", value=b"unheard-of value"),
    )
    output = await run(
        "cat /run/one /run/two; echo; stat -c '%a %u %g %s' /run/one /run/two;"
        " echo x >/run/one || chmod 600 /run/one || rm /run/one || echo kept",
        secrets=secrets,
        user=User(uid=1000, gid=1001),
    )
    lines = output.splitlines()
    assert lines[:3] == [b"first\0valueunheard-of value", b"400 1000 1001 11", b"400 1000 1001 16"]
    assert lines[-1] == b"kept"
    assert (rootfs / "run/one").read_bytes() == b""
    holders = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in holders if b"unheard-of value" in path.read_bytes()] == []


async def test_a_secret_cannot_be_read_by_another_user(run: Run, rootfs: Path) -> None:
    (rootfs / "etc").mkdir()
    (rootfs / "etc/passwd").write_text("other:x:5:5::/:/bin/sh\n")
    secret = Secret(target="/run/secret", value=b"hidden")
    with pytest.raises(CommandFailed):
        await run("su other -c 'id -u; cat /run/secret'", secrets=(secret,))
    output = await run("su other -c 'id -u; cat /run/secret' 2>&1; true", secrets=(secret,))
    assert output.startswith(b"5\n")
    assert b"hidden" not in output


async def test_a_secret_is_never_written_to_the_bundle_on_disk(
    run: Run, rootfs: Path, state_dir: Path
) -> None:
    secret = Secret(target="/run/secret", value=b"hidden")
    output = await run("grep /run/secret /proc/self/mountinfo", secrets=(secret,))
    assert b" - tmpfs obuilder-secrets " in output
    assert b"ro" in output.split(b" ")[5].split(b",")


async def test_a_cache_is_writable_and_has_no_set_uid_and_no_devices(
    run: Run, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "old").write_text("kept")
    output = await run(
        "cat /c/old; echo; echo new >/c/new; grep ' /c ' /proc/mounts",
        mounts=(Mount(source=cache, target="/c"),),
    )
    assert (cache / "new").read_text() == "new\n"
    content, mounted = output.splitlines()
    assert content == b"kept"
    assert {b"rw", b"nosuid", b"nodev"} <= set(mounted.split(b" ")[3].split(b","))


async def test_a_command_sees_what_it_sees_under_obuilder(run: Run, rootfs: Path) -> None:
    """The golden case `fast`; file-system types and masked paths depend on the kernel."""
    (rootfs / "etc").mkdir()
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (rootfs / "etc/group").write_text("root:x:0:\n")
    [case] = [case for case in json.loads(IDS.read_text()) if case["name"] == "fast"]
    command = json.loads(case["spec"].partition("(run (shell ")[2].removesuffix(")))"))
    expected = case["stdout"].partition('tail -n1"))\n')[2] or case["stdout"]
    expected = expected[expected.index("\nbuilder\n") + 1 : expected.index("---> saved")]
    output = (await run(command, env=(*_path(case), ("HOME", "/root")))).decode()
    theirs, ours = (text.partition("/ ")[0] for text in (expected, output))
    assert ours == theirs
    mounted = {line.partition(" ")[0] for line in output.partition("/ ")[2].splitlines()}
    for path in ("/dev", "/dev/mqueue", "/dev/pts", "/dev/shm", "/etc/hosts", "/proc", "/sys"):
        assert path in mounted
    for path in ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/sys/fs/cgroup"):
        assert path in mounted


def _path(case: dict[str, str]) -> tuple[tuple[str, str], ...]:
    [line] = [line for line in case["stdout"].splitlines() if line.startswith("PATH=")]
    return (("PATH", line.removeprefix("PATH=")),)


async def test_fast_sync_makes_sync_calls_succeed_without_syncing(run: Run) -> None:
    # A pipe cannot be synced: the kernel says so if it is asked.
    command = "head -c 1 /dev/zero | dd conv=fsync 2>&1 | tail -c 1"
    failing = "dd if=/dev/zero of=/proc/self/fd/1 bs=1 count=1 conv=fsync"
    assert await run(command)
    with pytest.raises(CommandFailed):
        await run(failing)
    await run(failing, fast_sync=True)


async def test_two_sandboxes_run_the_same_step_at_the_same_time(
    tmp_path: Path, rootfs: Path, config: Callable[..., object], log: BuildLog
) -> None:
    from obuilder_sandbox_runc import RuncSandbox  # noqa: PLC0415 - beside the fixture's own

    ends = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
    step = config("echo started; cat")

    async def one(number: int) -> None:
        state = tmp_path / f"store-{number}"
        async with RuncSandbox.open(state, RuncSandbox.Config()) as sandbox:
            await sandbox.run(step, rootfs, log=log, stdin=ends[number][0])  # type: ignore[arg-type] # a RunConfig

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, 0)
            tasks.start_soon(one, 1)
            await log.wait_for(b"started\nstarted\n")  # type: ignore[attr-defined] # a MemoryLog
            for _, writer in ends:
                os.close(writer)
    for reader, _ in ends:
        os.close(reader)
