"""The docker CLI: the few commands that a fetch needs, and nothing left behind by them."""

import json
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel

from obuilder import process
from obuilder.errors import FetchError, ProcessError
from obuilder.interfaces import BuildLog
from obuilder.types import Env
from obuilder_fetcher_docker.failures import ARCHIVE_FORM, failure
from obuilder_fetcher_docker.makers import LABEL, is_dead, maker
from obuilder_fetcher_docker.reference import Reference, repository

__all__ = ["CONTAINER_PREFIX", "Docker", "Image"]

CONTAINER_PREFIX = "obuilder-fetch-"
"""How the name of every container that a fetch makes begins."""

REMOVE_LIMIT_S = 20.0
"""How long removing a container may hold up a cancelled fetch; normally 0.05 s."""

_STDERR_BYTES = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that the engine has; `digests` are pairs (full repository name, digest)."""

    id: str
    env: Env
    digests: tuple[tuple[str, str], ...]
    platform: str | None

    def digest(self, reference: Reference) -> str:
        """What identifies it under that reference; its id if no registry knows it so."""
        if reference.digest is not None:
            return reference.digest
        known = (digest for name, digest in self.digests if name == reference.repository)
        return next(known, self.id)

    def is_for(self, platform: str) -> bool:
        """Whether it is made for `platform` (OS/ARCH[/VARIANT]); an image that does not say is."""
        if self.platform is None:
            return True
        mine, wanted = self.platform.split("/"), platform.split("/")
        return all(a == b for a, b in zip(mine, wanted, strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    """One docker CLI with its environment; `base` is the image text, for errors."""

    program: str
    environment: Mapping[str, str]
    base: str

    async def find(self) -> Image | None:
        """The image if the engine has it already."""
        argv = [self.program, "image", "inspect", "--format", "{{json .}}", "--", self.base]
        try:
            done = await process.run(argv, env=self.environment)
        except ProcessError as error:
            problem = self._failure("look for the image", error)
            if problem.code == "docker.no-such-image":
                return None
            raise problem from error
        try:
            return _image(json.loads(done.stdout.decode("utf-8", "surrogateescape")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FetchError(
                "docker image inspect gave an answer that makes no sense",
                where=self.base,
                hint="is the option `docker` of the fetcher really a docker CLI?",
                code="docker.failed",
            ) from error

    async def pull(self, platform: str, log: BuildLog) -> None:
        """Bring the image from its registry, the progress into the log."""
        problem = None
        async with log.pipe() as progress:
            argv = ("pull", "--platform", platform, "--", self.base)
            try:
                await self._call("pull the image", argv, stdout=progress)
            except FetchError as error:
                problem = error  # a log may have a task group, which would wrap it
        if problem is not None:
            raise problem

    @asynccontextmanager
    async def container(self, image: Image, log: BuildLog) -> AsyncIterator[str]:
        """A container of the image that never runs, removed however the block is left."""
        name = CONTAINER_PREFIX + secrets.token_hex(8)
        # By its id, so that a tag moved meanwhile cannot change what is exported. The
        # command is for images that have none; network `none`: nothing to set up.
        options = ["--pull", "never", "--network", "none"]
        options += ["--label", f"{LABEL}={maker()}"]
        if image.platform is not None:
            options += ["--platform", image.platform]
        argv = ("create", *options, "--name", name, "--", image.id, "/none")
        try:
            # A client that is killed leaves the engine creating, unseen by the removal
            # below; so a cancelled one is waited for, within the limit of `call`.
            await self._call("create a container", argv, stop=anyio.lowlevel.checkpoint)
            yield name
        finally:
            with anyio.CancelScope(shield=True):
                await self._remove(name, log)

    async def export(self, container: str, sink: int) -> None:
        """Write the container's file system to descriptor `sink` as a tar stream."""
        await self._call("export the image", ("export", container), stdout=sink)

    async def remove_orphans(self, log: BuildLog) -> None:
        """Remove the containers of builders of this machine that are dead."""
        form = f'{{{{.Names}}}} {{{{.Label "{LABEL}"}}}}'
        argv = [self.program, "ps", "--all", "--filter", f"label={LABEL}", "--format", form]
        try:
            listed = (await process.run(argv, env=self.environment)).stdout.decode()
        except ProcessError:  # what the engine has against us, the fetch itself will tell
            return
        for name, _, label in (line.partition(" ") for line in listed.splitlines()):
            if name.startswith(CONTAINER_PREFIX) and is_dead(label):
                await self._remove(name, log)

    async def _remove(self, name: str, log: BuildLog) -> None:
        removed = False
        with anyio.move_on_after(REMOVE_LIMIT_S):
            argv = [self.program, "rm", "--force", "--volumes", name]
            try:
                await process.run(argv, env=self.environment)
                removed = True
            except ProcessError as error:
                # A container that was not created needs no removal (old clients fail then).
                removed = b"no such container" in error.stderr.lower()
        if not removed:
            await log.note(f"could not remove the container: docker rm --force {name}")

    async def _call(
        self,
        task: str,
        arguments: tuple[str, ...],
        *,
        stdout: int | None = None,
        stop: process.Stop | None = None,
    ) -> None:
        # In memory: a full disk is one of the things that it may have to tell.
        stderr = os.memfd_create("docker-stderr")
        try:
            status = await process.call(
                (self.program, *arguments),
                stdout=stdout,
                stderr=stderr,
                env=self.environment,
                stop=stop,
            )
            said = os.pread(stderr, _STDERR_BYTES, max(0, os.fstat(stderr).st_size - _STDERR_BYTES))
        except ProcessError as error:
            raise self._failure(task, error) from error
        finally:
            os.close(stderr)
        if status != 0:
            raise failure(task, status=status, stderr=said, base=self.base)

    def _failure(self, task: str, error: ProcessError) -> FetchError:
        if error.returncode is not None:
            status = error.returncode
            return failure(task, status=status, stderr=error.stderr, base=self.base)
        return FetchError(
            f"the docker CLI cannot be started: {error.what}",
            where=self.base,
            hint=f"install it (apt install docker.io) or set the option `docker`; {ARCHIVE_FORM}",
            code="docker.no-cli",
        )


def _image(found: dict[str, Any]) -> Image:
    """From what `docker image inspect` prints; raises what a wrong shape raises."""
    pairs = (entry.partition("=") for entry in (found.get("Config") or {}).get("Env") or ())
    digests = (entry.rpartition("@") for entry in found.get("RepoDigests") or ())
    parts = [found.get("Os"), found.get("Architecture")]
    if all(parts) and found.get("Variant"):
        parts.append(found["Variant"])
    return Image(
        id=str(found["Id"]),
        env=tuple((name, value) for name, _, value in pairs),
        digests=tuple((repository(name), digest) for name, _, digest in digests),
        platform="/".join(map(str, parts)) if all(parts) else None,
    )
