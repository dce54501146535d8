"""Sandboxes that leave, show or lose something at the end; see broken_sandboxes.py."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from support.broken_logs import Hasty, Passing
from support.broken_sandboxes import BrokenSandbox

from obuilder.errors import CommandFailed
from obuilder.interfaces import BuildLog
from obuilder.process import run
from obuilder.types import Leftover, Mount, RunConfig

__all__ = ["LEAKY_SANDBOXES"]


class TellsNoSignal(BrokenSandbox):
    CAUGHT_BY = "a_command_that_dies_by_a_signal_tells_it"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        try:
            await super().run(config, rootfs, log=log, stdin=stdin)
        except CommandFailed as error:
            raise CommandFailed(error.argv, min(error.status, 128)) from error


class TakesASignalForSuccess(BrokenSandbox):
    CAUGHT_BY = "a_command_that_dies_by_a_signal_tells_it"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        try:
            await super().run(config, rootfs, log=log, stdin=stdin)
        except CommandFailed as error:
            if error.status < 128:
                raise


class LeavesAMountOfAFailure(BrokenSandbox):
    CAUGHT_BY = "a_run_with_secrets_and_mounts_leaves_nothing_mounted"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        place = rootfs / "tmp"
        await run(("mount", "-t", "tmpfs", "none", str(place)))
        await super().run(config, rootfs, log=log, stdin=stdin)
        await run(("umount", str(place)))


class KeepsSecretsForRoot(BrokenSandbox):
    CAUGHT_BY = "a_secret_can_be_read_by_the_user_of_the_command"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        with tempfile.TemporaryDirectory() as directory:
            mounts = list(config.mounts)
            for number, secret in enumerate(config.secrets):
                file = Path(directory, str(number))
                file.write_bytes(secret.value)
                file.chmod(0o400)
                mounts.append(Mount(source=file, target=secret.target, readonly=True))
            other = replace(config, secrets=(), mounts=tuple(mounts))
            await super().run(other, rootfs, log=log, stdin=stdin)


class PutsSecretsInTheEnvironment(BrokenSandbox):
    CAUGHT_BY = "a_secret_is_in_no_argument_and_no_environment"

    def asked(self, config: RunConfig) -> RunConfig:
        values = (secret.value.decode() for secret in config.secrets)
        named = ((f"SECRET{number}", value) for number, value in enumerate(values))
        return replace(config, env=(*config.env, *named))


class PutsSecretsInArguments(BrokenSandbox):
    CAUGHT_BY = "a_secret_is_in_no_argument_and_no_environment"

    def asked(self, config: RunConfig) -> RunConfig:
        values = (secret.value.decode() for secret in config.secrets)
        return replace(config, argv=(*config.argv, *values))


class LosesWhatIsNotReadYet(BrokenSandbox):
    CAUGHT_BY = "output_before_a_cancel_is_in_the_log"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        await super().run(config, rootfs, log=Hasty(log), stdin=stdin)


class LeavesADescriptorWhenCancelled(BrokenSandbox):
    CAUGHT_BY = "a_cancel_leaves_no_descriptor_and_no_child"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        descriptor = os.open("/", os.O_RDONLY)
        try:
            await super().run(config, rootfs, log=log, stdin=stdin)
        except Exception:
            os.close(descriptor)
            raise
        os.close(descriptor)


class DiscardsNothing(BrokenSandbox):
    CAUGHT_BY = "what_a_killed_builder_left_is_listed_and_can_be_discarded"

    async def discard(self, leftover: Leftover) -> None:
        del leftover


class LetsItWriteOn(DiscardsNothing):
    """The output ends with the builder, which had a pipe of its own; the command does not."""

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        await super().run(config, rootfs, log=Passing(log), stdin=stdin)


class LeavesATemporaryFile(BrokenSandbox):
    CAUGHT_BY = "its_state_is_below_its_own_directory"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        tempfile.NamedTemporaryFile(delete=False).close()
        await super().run(config, rootfs, log=log, stdin=stdin)


class LeavesAFileWhereItIs(BrokenSandbox):
    CAUGHT_BY = "its_state_is_below_its_own_directory"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        Path("sandbox.log").touch()
        await super().run(config, rootfs, log=log, stdin=stdin)


class LeavesAFileBesideTheRoot(BrokenSandbox):
    CAUGHT_BY = "its_state_is_below_its_own_directory"

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        rootfs.with_name("step.log").touch()
        await super().run(config, rootfs, log=log, stdin=stdin)


class LeavesAFileOfTheMachines(BrokenSandbox):
    CAUGHT_BY = "its_state_is_below_its_own_directory"
    MADE: ClassVar[list[Path]] = []
    """What the suite removes."""

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        path = Path("/run", f"step-{config.id}")
        self.MADE.append(path)
        path.touch()
        await super().run(config, rootfs, log=log, stdin=stdin)


LEAKY_SANDBOXES = [
    kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, BrokenSandbox) and kind is not BrokenSandbox
]
