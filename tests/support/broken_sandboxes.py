"""Sandboxes with one fault each; `CAUGHT_BY` names the promise of the suite that catches it."""

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import anyio
from support.broken_logs import Held, Reordered, Truncated

from obuilder.errors import CommandFailed, SandboxError
from obuilder.interfaces import BuildLog
from obuilder.process import call, run
from obuilder.types import Leftover, RunConfig, User
from obuilder_sandbox_runc import RuncSandbox

__all__ = ["BROKEN_SANDBOXES", "BrokenSandbox"]


class BrokenSandbox(RuncSandbox):
    """A sandbox without a fault; those below have one, most of them in what they ask for."""

    API: ClassVar[int] = 1
    Config = RuncSandbox.Config
    CAUGHT_BY: ClassVar[str]

    def asked(self, config: RunConfig) -> RunConfig:
        """What is run instead of `config`."""
        return config

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        await super().run(self.asked(config), rootfs, log=log, stdin=stdin)


class IsOfTheFuture(BrokenSandbox):
    CAUGHT_BY = "the_class_says_its_interface_and_its_options"
    API: ClassVar[int] = 99
    Config = RuncSandbox.Config


class JoinsArguments(BrokenSandbox):
    CAUGHT_BY = "arguments_arrive_as_they_are"

    def asked(self, config: RunConfig) -> RunConfig:
        return replace(config, argv=("/bin/sh", "-c", " ".join(config.argv)))


class ReplacesBytes(BrokenSandbox):
    CAUGHT_BY = "text_that_is_not_utf8_arrives_or_is_refused"

    def asked(self, config: RunConfig) -> RunConfig:
        words = (word.encode("utf-8", "replace").decode() for word in config.argv)
        return replace(config, argv=tuple(words))


class AddsEnvironment(BrokenSandbox):
    CAUGHT_BY = "the_environment_is_the_given_one"

    def asked(self, config: RunConfig) -> RunConfig:
        return replace(config, env=(*config.env, ("CI", "true")))


class StaysAtTheRoot(BrokenSandbox):
    CAUGHT_BY = "a_missing_working_directory_is_made"

    def asked(self, config: RunConfig) -> RunConfig:
        return replace(config, cwd="/")


class RunsAsRoot(BrokenSandbox):
    CAUGHT_BY = "user_and_group_are_the_given_ones"

    def asked(self, config: RunConfig) -> RunConfig:
        return replace(config, user=User(uid=0, gid=0))


class HasOneName(BrokenSandbox):
    CAUGHT_BY = "the_host_name_is_the_given_one"

    def asked(self, config: RunConfig) -> RunConfig:
        return replace(config, hostname="builder")


class SharesTheNetwork(BrokenSandbox):
    CAUGHT_BY = "without_network_there_is_only_loopback"

    def asked(self, config: RunConfig) -> RunConfig:
        return replace(config, network=("host",))


class HasNoNetwork(BrokenSandbox):
    CAUGHT_BY = "with_network_host_it_is_the_hosts"

    def asked(self, config: RunConfig) -> RunConfig:
        return replace(config, network=())


class TakesAnyNetwork(BrokenSandbox):
    CAUGHT_BY = "any_other_network_is_refused"

    def asked(self, config: RunConfig) -> RunConfig:
        return replace(config, network=config.network[:1] if "host" in config.network else ())


class HasInputOfItsOwn(BrokenSandbox):
    CAUGHT_BY = "standard_input_is_empty_unless_given"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        with open("/proc/self/status", "rb") as own:  # noqa: ASYNC230 - never waits
            await super().run(
                config, rootfs, log=log, stdin=own.fileno() if stdin is None else stdin
            )


class ForgetsTheInput(BrokenSandbox):
    CAUGHT_BY = "standard_input_arrives_whole"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        del stdin
        await super().run(config, rootfs, log=log)


class WantsAllInputRead(BrokenSandbox):
    CAUGHT_BY = "input_that_is_not_read_is_no_error"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        await super().run(config, rootfs, log=log, stdin=stdin)
        if stdin is not None and os.read(stdin, 1):
            raise SandboxError("broken pipe")


class MixesOutputs(BrokenSandbox):
    CAUGHT_BY = "output_and_errors_come_in_the_order_of_the_command"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        async with Reordered.over(log) as other:
            await super().run(config, rootfs, log=other, stdin=stdin)


class LosesTheEnd(BrokenSandbox):
    CAUGHT_BY = "much_output_arrives_whole"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        await super().run(config, rootfs, log=Truncated(log), stdin=stdin)


class ShowsOutputAtTheEnd(BrokenSandbox):
    CAUGHT_BY = "output_is_there_while_the_command_runs"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        async with Held.over(log) as other:
            await super().run(config, rootfs, log=other, stdin=stdin)


class WorksOnACopy(BrokenSandbox):
    CAUGHT_BY = "what_a_command_changes_stays"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        copy = rootfs.with_name(f"copy-{config.id[:12]}")
        await run(("cp", "-a", str(rootfs), str(copy)))
        try:
            await super().run(config, copy, log=log, stdin=stdin)
        finally:
            shutil.rmtree(copy)


class ForgetsMounts(BrokenSandbox):
    CAUGHT_BY = "a_mount_shows_its_directory"

    def asked(self, config: RunConfig) -> RunConfig:
        return replace(config, mounts=())


class MountsForWriting(BrokenSandbox):
    CAUGHT_BY = "a_read_only_mount_cannot_be_written"

    def asked(self, config: RunConfig) -> RunConfig:
        mounts = tuple(replace(mount, readonly=False) for mount in config.mounts)
        return replace(config, mounts=mounts)


class WritesSecretsDown(BrokenSandbox):
    CAUGHT_BY = "a_secret_is_there_for_its_run_alone"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        for secret in config.secrets:
            path = rootfs / secret.target.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(secret.value)
            path.chmod(0o400)
        await super().run(replace(config, secrets=()), rootfs, log=log, stdin=stdin)


class FollowsLinks(BrokenSandbox):
    CAUGHT_BY = "nothing_is_written_through_a_link_that_leads_outside"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        (rootfs / config.cwd.lstrip("/")).mkdir(parents=True, exist_ok=True)
        await super().run(config, rootfs, log=log, stdin=stdin)


class PassesADescriptorOn(BrokenSandbox):
    CAUGHT_BY = "a_command_has_no_descriptor_but_the_three"

    def asked(self, config: RunConfig) -> RunConfig:
        return replace(config, argv=("/bin/sh", "-c", 'exec 5</; exec "$@"', "sh", *config.argv))


class CallsAllFailuresOne(BrokenSandbox):
    CAUGHT_BY = "a_command_that_fails_tells_its_status"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        try:
            await super().run(config, rootfs, log=log, stdin=stdin)
        except CommandFailed as error:
            raise CommandFailed(error.argv, 1) from error


class TakesAMissingProgramForDone(BrokenSandbox):
    CAUGHT_BY = "what_cannot_be_started_fails_and_does_no_harm"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        if (rootfs / config.argv[0].lstrip("/")).is_file():
            await super().run(config, rootfs, log=log, stdin=stdin)


class MakesMissingRoots(BrokenSandbox):
    CAUGHT_BY = "a_root_that_is_not_there_is_an_error"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        if rootfs.is_dir():
            await super().run(config, rootfs, log=log, stdin=stdin)


class LeavesADescriptorOpen(BrokenSandbox):
    CAUGHT_BY = "an_ended_run_leaves_nothing_behind"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        os.open("/", os.O_RDONLY)
        await super().run(config, rootfs, log=log, stdin=stdin)


class OnlyChangesTheRoot(BrokenSandbox):
    """As chroot(8) alone does: what it starts is nobody's."""

    CAUGHT_BY = "what_a_command_leaves_running_ends_with_it"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        async with log.pipe() as output:
            argv = ("chroot", str(rootfs), *config.argv)
            status = await call(argv, stdin=stdin, stdout=output, stderr=output)
        if status:
            raise CommandFailed(config.argv, status if status > 0 else 128 - status)


class WaitsForDaemons(OnlyChangesTheRoot):
    CAUGHT_BY = "a_daemon_that_holds_the_output_does_not_hold_the_run"


class LeavesWhatIsCancelled(OnlyChangesTheRoot):
    CAUGHT_BY = "a_cancel_kills_all_that_runs_inside"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        # Its log is a file's, so that no daemon holds it.
        reader, writer = os.pipe()
        argv = ("chroot", str(rootfs), *config.argv)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tell, reader, log)
                try:
                    await call(argv, stdin=stdin, stdout=writer, stderr=writer)
                finally:
                    tasks.cancel_scope.cancel()
        finally:
            os.close(reader)
            os.close(writer)

    @staticmethod
    async def _tell(reader: int, log: BuildLog) -> None:
        while True:
            await anyio.wait_readable(reader)
            await log.output(os.read(reader, 1000))


class LeavesAMountWhenCancelled(BrokenSandbox):
    CAUGHT_BY = "a_cancel_at_any_moment_leaves_nothing_behind"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        place = rootfs / "tmp"
        await run(("mount", "-t", "tmpfs", "none", str(place)))
        try:
            await super().run(config, rootfs, log=log, stdin=stdin)
        except Exception:
            await run(("umount", str(place)))
            raise
        await run(("umount", str(place)))


class RunsOneAtATime(BrokenSandbox):
    CAUGHT_BY = "two_commands_run_at_the_same_time"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._one = anyio.Lock()

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        async with self._one:
            await super().run(config, rootfs, log=log, stdin=stdin)


class ForgetsTheDead(BrokenSandbox):
    CAUGHT_BY = "what_a_killed_builder_left_is_listed_and_can_be_discarded"

    async def leftovers(self) -> Sequence[Leftover]:
        return ()


class CleansUpWhenOpened(BrokenSandbox):
    CAUGHT_BY = "opening_harms_nothing_of_a_live_process"

    @classmethod
    @asynccontextmanager
    async def open(cls, state_dir: Path, config: Any) -> AsyncIterator[Self]:
        async with super().open(state_dir, config) as sandbox:
            for leftover in await sandbox.leftovers():
                await sandbox.discard(leftover)
            yield sandbox


class WritesBesideItsState(BrokenSandbox):
    CAUGHT_BY = "its_state_is_below_its_own_directory"

    @classmethod
    @asynccontextmanager
    async def open(cls, state_dir: Path, config: Any) -> AsyncIterator[Self]:
        async with super().open(state_dir, config) as sandbox:
            state_dir.with_name("sandbox.lock").touch()
            yield sandbox


BROKEN_SANDBOXES = [
    kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, BrokenSandbox) and kind is not BrokenSandbox
]
