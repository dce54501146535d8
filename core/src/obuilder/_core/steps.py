"""Making one step: base import, run, copy. What happens in a step's own directory."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tarfile import TarInfo
from typing import IO, Protocol

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from obuilder._core import transfer
from obuilder._core.build_log import StepLog
from obuilder._core.context import Context
from obuilder._core.identity import (
    base_id,
    context_text,
    copy_preimage,
    identify,
    redacted,
    run_preimage,
)
from obuilder._core.manifest import Manifest, scan
from obuilder._core.record import StepRecord
from obuilder._core.saved_env import write_env
from obuilder._core.step_caches import mounted_caches
from obuilder._platforms import same_platform
from obuilder.errors import BuildError, FetchError, SourceError, StoreError
from obuilder.interfaces import Fetcher, Sandbox, Store
from obuilder.spec import ast, op_to_sexp, to_mach
from obuilder.types import FetchContext, Id, RunConfig, Secret, User

__all__ = ["Backends", "CopyStep", "ImportStep", "RunStep", "Step", "copy_step", "run_step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """The three, as opened for one builder."""

    store: Store[object]
    sandbox: Sandbox[object]
    fetcher: Fetcher[object]


class Step(Protocol):
    """One thing that makes a snapshot."""

    @property
    def id(self) -> Id:
        """The result's name."""

    @property
    def kind(self) -> str:
        """The word of the spec: `from`, `run` or `copy`."""

    @property
    def base(self) -> Id | None:
        """The result that it starts from."""

    @property
    def caches(self) -> Sequence[ast.Cache]:
        """What it has mounted."""

    async def make(self, backends: Backends, directory: Path, log: StepLog) -> StepRecord:
        """Make the result in `directory`, a clone of the base; the duration is left 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportStep:
    """The import of a base image."""

    text: str
    context: FetchContext
    base: None = None
    caches: tuple[()] = ()
    kind: str = "from"

    @property
    def id(self) -> Id:
        return base_id(self.text)

    async def make(self, backends: Backends, directory: Path, log: StepLog) -> StepRecord:
        rootfs = directory / "rootfs"
        scratch = backends.store.state_dir / "scratch" / self.id
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.parent.mkdir(exist_ok=True)
            scratch.mkdir()
            rootfs.mkdir()
            rootfs.chmod(0o755)  # whatever the umask: a step's user must get in
            image = await backends.fetcher.fetch(
                self.text, rootfs, log=log, scratch=scratch, context=self.context
            )
            if image.platform and not same_platform(image.platform, self.context.platform):
                raise BuildError(
                    f"the base {self.text} is for {image.platform},"
                    f" wanted is {self.context.platform}",
                    code="base.platform",
                    hint="name a base for that platform, or another --platform",
                )
            write_env(directory / "env", image.env)
        except OSError as error:
            raise FetchError(f"cannot import {self.text!r}: {error}") from error
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True))
        return StepRecord(
            op=to_mach(("from", self.text)),
            context=to_mach((("env", image.env),)),
            preimage=to_mach(self.text),
            duration_s=0.0,
            digest=image.digest,
            platform=image.platform,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """A command in the sandbox."""

    id: Id
    base: Id
    op: ast.Run
    config: RunConfig
    record: StepRecord
    kind: str = "run"

    @property
    def caches(self) -> Sequence[ast.Cache]:
        return self.op.cache

    async def make(self, backends: Backends, directory: Path, log: StepLog) -> StepRecord:
        user = self.config.user
        async with mounted_caches(backends.store, self.caches, user=user, log=log) as mounts:
            config = replace(self.config, mounts=mounts)
            await backends.sandbox.run(config, directory / "rootfs", log=log)
        return self.record


def run_step(base: Id, context: Context, op: ast.Run, *, secrets: Mapping[str, bytes]) -> RunStep:
    """Prepare a `run`. BuildError for a secret without a value or an impossible user."""
    user = context.unix_user()
    mounted = tuple(
        Secret(target=secret.target, value=_secret(secrets, secret.id)) for secret in op.secrets
    )
    preimage = run_preimage(base, context, op, user=user, secrets=mounted)
    id = identify(preimage)
    return RunStep(
        id=id,
        base=base,
        op=op,
        config=RunConfig(
            id=id,
            argv=(*context.shell, op.shell),
            cwd=context.workdir,
            user=user,
            env=context.env,
            network=op.network,
            secrets=tuple(reversed(mounted)),
        ),
        record=StepRecord(
            op=to_mach(op_to_sexp(op)),
            context=context_text(context, user),
            preimage=redacted(preimage),
            duration_s=0.0,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStep:
    """Files from a source tree into the snapshot."""

    id: Id
    base: Id
    source: Path
    manifests: Sequence[Manifest]
    dst: str
    user: User
    record: StepRecord
    caches: tuple[()] = ()
    kind: str = "copy"

    async def make(self, backends: Backends, directory: Path, log: StepLog) -> StepRecord:
        try:
            reader, writer = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"cannot make a pipe for the copy: {error.strerror}") from error
        failures: list[Exception] = []
        sent: Sequence[TarInfo] | SourceError | OSError = ()

        async def receive() -> None:
            try:
                rootfs = directory / "rootfs"
                config = RunConfig(id=self.id, argv=transfer.RECEIVER, env=transfer.RECEIVER_ENV)
                await backends.sandbox.run(config, rootfs, log=log, stdin=reader)
            except Exception as error:  # noqa: BLE001 - raised again below
                failures.append(error)
            finally:
                os.close(reader)  # a sender that still writes gets EPIPE

        output = os.fdopen(writer, "wb")
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                # A limiter of its own: senders that wait for receivers must not
                # take all the threads that receivers need to start.
                sent = await anyio.to_thread.run_sync(
                    self._send, directory / "rootfs", output, limiter=anyio.CapacityLimiter(1)
                )
                if isinstance(sent, SourceError):
                    # Before the stream ends: the receiver would complain of a cut archive.
                    tasks.cancel_scope.cancel()
        finally:
            with suppress(OSError):  # what it still holds goes to nobody
                output.close()
        # Who was cancelled had the stream end early: that is no failure.
        await anyio.lowlevel.checkpoint_if_cancelled()
        if isinstance(sent, SourceError):
            raise sent
        if failures:
            raise failures[0]
        if isinstance(sent, OSError):
            raise StoreError(f"cannot send to the sandbox: {sent}") from sent
        await anyio.to_thread.run_sync(transfer.finish, directory / "rootfs", sent)
        return self.record

    def _send(self, rootfs: Path, output: IO[bytes]) -> Sequence[TarInfo] | SourceError | OSError:
        try:
            sent = transfer.send(
                source=self.source,
                manifests=self.manifests,
                dst=self.dst,
                user=self.user,
                rootfs=rootfs,
                output=output,
            )
            output.close()
        except SourceError as error:
            return error
        except OSError as error:
            with suppress(OSError):
                output.close()  # a receiver that still reads must not wait for more
            return error
        return sent


async def copy_step(base: Id, context: Context, op: ast.Copy, *, source: Path) -> CopyStep:
    """Prepare a `copy` from the tree at `source`. SourceError if a source cannot be copied."""
    user = context.unix_user()
    dst = context.join(op.dst)
    if "\0" in dst:
        raise SourceError(f"the destination {to_mach(dst)} holds a zero byte", code="copy.dst")
    check = anyio.from_thread.check_cancelled
    manifests = [
        await anyio.to_thread.run_sync(partial(scan, source, each, exclude=op.exclude, check=check))
        for each in op.src
    ]
    if not manifests:
        raise SourceError("No source items for copy!")
    if len(manifests) > 1 and not dst.endswith("/"):
        raise SourceError(
            "When copying multiple items, the destination must end with '/'", code="copy.dst"
        )
    preimage = copy_preimage(
        base=base, user=user, manifests=[manifest.sexp() for manifest in manifests], dst=dst
    )
    id = identify(preimage)
    return CopyStep(
        id=id,
        base=base,
        source=source,
        manifests=manifests,
        dst=dst,
        user=user,
        record=StepRecord(
            op=to_mach(op_to_sexp(op)),
            context=context_text(context, user),
            preimage=redacted(preimage),
            duration_s=0.0,
        ),
    )


def _secret(secrets: Mapping[str, bytes], name: str) -> bytes:
    try:
        return secrets[name]
    except KeyError:
        raise BuildError(
            f"Couldn't find value for requested secret '{name}'", code="secret.missing"
        ) from None
