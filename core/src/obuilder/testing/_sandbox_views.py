"""Promises of sandboxes about what a command sees, and what is seen of it."""

import os
import tempfile
from pathlib import Path
from typing import Any

import anyio
import pytest

from obuilder.errors import BuildError, ObuilderError
from obuilder.testing._sandbox_bench import PATH, SandboxBench
from obuilder.testing._tools import LIMIT_S
from obuilder.testing._traces import interfaces
from obuilder.testing._trees import describe_data
from obuilder.types import Mount, Secret, User

__all__ = ["ViewPromises"]

_ARGUMENTS = ("", " ", "a  b", "-x", "*", "'\"\\$HOME`id`", "new\nline", "é", "--")
_PRINT = 'for word in "$@"; do printf "%s|" "$word"; done'


class ViewPromises:
    """See SandboxContract."""

    async def test_arguments_arrive_as_they_are(self, bench: SandboxBench) -> None:
        said = await bench.run(["/bin/sh", "-c", _PRINT, "sh", *_ARGUMENTS])
        assert said == os.fsencode("".join(f"{word}|" for word in _ARGUMENTS))

    async def test_text_that_is_not_utf8_arrives_or_is_refused(self, bench: SandboxBench) -> None:
        try:
            said = await bench.run(["/bin/sh", "-c", _PRINT, "sh", "caf\udce9"])
        except BuildError:
            return
        assert said == b"caf\xe9|"

    async def test_the_environment_is_the_given_one(self, bench: SandboxBench) -> None:
        # HOME is among them: an OCI runtime sets one where it is not given.
        odd = (("B", "1"), ("A", "two words=é"), ("EMPTY", ""), ("X", "new\nline"))
        given = (*odd, ("HOME", "/h"), PATH)
        said = await bench.run(["/bin/sh", "-c", "cat /proc/self/environ"], env=given)
        # A shell may add its own; these two are busybox's.
        own = {"PWD", "SHLVL", "OLDPWD", "_"}
        found = [line.partition("=") for line in said.decode().split("\0") if line]
        assert {(name, value) for name, _, value in found if name not in own} == set(given)

    async def test_a_missing_working_directory_is_made(self, bench: SandboxBench) -> None:
        user = User(uid=1000, gid=1001) if bench.can_set_user else User(uid=0, gid=0)
        said = await bench.run("pwd; stat -c '%a %u %g' . ..", cwd="/new/dir é", user=user)
        assert said.decode() == "/new/dir é\n755 0 0\n755 0 0\n"

    async def test_user_and_group_are_the_given_ones(self, bench: SandboxBench) -> None:
        user = User(uid=123456, gid=7)
        if not bench.can_set_user:
            with pytest.raises(BuildError):
                await bench.run("id -u", user=user)
            return
        assert await bench.run("id -u; id -g; id -G", user=user) == b"123456\n7\n7\n"

    async def test_the_host_name_is_the_given_one(self, bench: SandboxBench) -> None:
        assert await bench.run("hostname") == b"builder\n"
        assert await bench.run("hostname", hostname="another") == b"another\n"

    async def test_without_network_there_is_only_loopback(self, bench: SandboxBench) -> None:
        if not bench.can_isolate_network:
            with pytest.raises(BuildError):
                await bench.run("true", network=())
            return
        assert interfaces(await bench.run("cat /proc/net/dev")) == {"lo"}

    async def test_with_network_host_it_is_the_hosts(self, bench: SandboxBench) -> None:
        if not bench.can_use_host_network:
            with pytest.raises(BuildError):
                await bench.run("true", network=("host",))
            return
        seen = interfaces(await bench.run("cat /proc/net/dev", network=("host",)))
        assert seen == interfaces(Path("/proc/net/dev").read_bytes())

    async def test_any_other_network_is_refused(self, bench: SandboxBench) -> None:
        for network in (("weird",), ("host", "weird"), ("none",)):
            with pytest.raises(BuildError):
                await bench.run("true", network=network)

    async def test_standard_input_is_empty_unless_given(self, bench: SandboxBench) -> None:
        assert await bench.run("cat; echo done") == b"done\n"

    async def test_standard_input_arrives_whole(self, bench: SandboxBench) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(range(256)) * 4096)
            file.seek(0)
            said = await bench.run("cat", stdin=file.fileno())
        assert said == bytes(range(256)) * 4096

    async def test_input_that_is_not_read_is_no_error(self, bench: SandboxBench) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(1 << 20))
            file.seek(0)
            assert await bench.run("echo done", stdin=file.fileno()) == b"done\n"

    async def test_output_and_errors_come_in_the_order_of_the_command(
        self, bench: SandboxBench
    ) -> None:
        said = await bench.run("for i in $(seq 199); do echo o$i; echo e$i >&2; done")
        assert said == b"".join(b"o%d\ne%d\n" % (number, number) for number in range(1, 200))

    async def test_much_output_arrives_whole(self, bench: SandboxBench) -> None:
        said = await bench.run("yes | head -c 3000000")
        assert describe_data(said) == describe_data(b"y\n" * 1_500_000)

    async def test_output_is_there_while_the_command_runs(self, bench: SandboxBench) -> None:
        reader, writer = os.pipe()
        config = bench.config("echo started; cat")
        try:
            with anyio.fail_after(LIMIT_S):
                async with bench.open_sandbox() as sandbox, anyio.create_task_group() as tasks:

                    async def run() -> None:
                        await sandbox.run(config, bench.rootfs, log=bench.log, stdin=reader)

                    tasks.start_soon(run)
                    try:
                        await bench.log.wait_for(b"started\n")
                    finally:
                        os.close(writer)
        finally:
            os.close(reader)

    async def test_what_a_command_changes_stays(self, bench: SandboxBench) -> None:
        await bench.run(
            "mkdir /kept; echo text > /kept/file; ln -s file /kept/link; chmod 750 /kept"
        )
        said = await bench.run("cat /kept/link; stat -c '%a %u' /kept; rm /kept/file")
        assert said == b"text\n750 0\n"
        assert await bench.run("ls /kept") == b"link\n"

    async def test_a_mount_shows_its_directory(self, bench: SandboxBench, tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "old").write_text("old\n")
        mounts = (Mount(source=tmp_path / "cache", target="/some/where"),)
        if not bench.can_mount:
            with pytest.raises(BuildError):
                await bench.run("true", mounts=mounts)
            return
        command = "cat /some/where/old; echo new > /some/where/new; rm /some/where/old"
        assert await bench.run(command, mounts=mounts) == b"old\n"
        found = [(path.name, path.read_text()) for path in (tmp_path / "cache").iterdir()]
        assert found == [("new", "new\n")]
        assert await bench.run("ls -A /some/where") == b""

    async def test_a_read_only_mount_cannot_be_written(
        self, bench: SandboxBench, tmp_path: Path
    ) -> None:
        (tmp_path / "shared").mkdir()
        mounts = (Mount(source=tmp_path / "shared", target="/shared", readonly=True),)
        if not bench.can_mount:
            with pytest.raises(BuildError):
                await bench.run("true", mounts=mounts)
            return
        said = await bench.run("touch /shared/new 2>/dev/null || echo refused", mounts=mounts)
        assert said == b"refused\n"
        assert list((tmp_path / "shared").iterdir()) == []

    async def test_nothing_is_written_through_a_link_that_leads_outside(
        self, bench: SandboxBench, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (tmp_path / "cache").mkdir()
        await bench.run(["/bin/ln", "-s", str(outside), "/out"])
        ways: list[dict[str, Any]] = [{"cwd": "/out/new"}]
        if bench.can_mount:
            ways.append({"mounts": (Mount(source=tmp_path / "cache", target="/out/cache"),)})
        if bench.can_show_secrets:
            ways.append({"secrets": (Secret(target="/out/secret", value=b"hidden"),)})
        for way in ways:
            try:
                await bench.run("echo x > /out/x; true", **way)
            except ObuilderError:
                continue  # it may refuse
            finally:
                assert list(outside.iterdir()) == [], way

    async def test_a_command_has_no_descriptor_but_the_three(self, bench: SandboxBench) -> None:
        # The fourth is ls's own, of the directory.
        assert await bench.run(["/bin/ls", "/proc/self/fd"]) == b"0\n1\n2\n3\n"
