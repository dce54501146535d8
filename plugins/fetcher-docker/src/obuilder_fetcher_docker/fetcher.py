"""`(from IMAGE)`: an image of a Docker engine, local or pulled, becomes a root file system."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import anyio
import anyio.lowlevel

from obuilder.errors import FetchError, ImageError
from obuilder.interfaces import BuildLog, Fetcher
from obuilder.types import BaseImage, FetchContext
from obuilder.unpack import unpack
from obuilder_fetcher_docker.engine import Docker, Image
from obuilder_fetcher_docker.reference import Reference

__all__ = ["DockerFetcher"]

_PASSED_ON = (
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_API_VERSION"),
    *("DOCKER_CERT_PATH", "DOCKER_TLS", "DOCKER_TLS_VERIFY"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("SSH_AUTH_SOCK", "XDG_RUNTIME_DIR"),  # DOCKER_HOST=ssh://…, and credential helpers
)

# Why no other platform's image could be had, when the local one is of the wrong platform.
_NOT_TO_BE_HAD = frozenset(
    {"docker.no-such-image", "docker.login", "docker.registry", "docker.platform"}
)


class DockerFetcher(Fetcher["DockerFetcher.Config"]):
    """Takes images from a Docker engine, through the docker CLI."""

    API: ClassVar[int] = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """The section `docker` of the settings."""

        docker: str = "docker"
        """The docker CLI: a program on PATH or an absolute path."""

        host: str | None = None
        """The engine, as in DOCKER_HOST (`unix:///run/docker.sock`, `ssh://…`, `tcp://…`);
        unset: whatever the docker CLI itself would use."""

    def __init__(self, config: Config, environment: dict[str, str]) -> None:
        self._config = config
        self._environment = environment
        # Once a process is enough: dead builders get no more of them.
        self._swept = False

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config) -> AsyncIterator[Self]:
        """Open the fetcher; the caller's DOCKER_* and proxy variables are read now."""
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        if config.host is not None:
            environment.pop("DOCKER_CONTEXT", None)  # the CLI prefers it to DOCKER_HOST
            environment["DOCKER_HOST"] = config.host
        yield cls(config, environment)

    async def fetch(
        self, base: str, rootfs: Path, *, log: BuildLog, scratch: Path, context: FetchContext
    ) -> BaseImage:
        """Fill `rootfs` with the image `base` names; see `Fetcher.fetch`.

        The engine's own image if it is for `context.platform`, else a pull.
        Digest: the registry's for that reference, else the image's id.
        On failure: FetchError with the codes of `obuilder.unpack`, or
        docker.invalid-reference, docker.no-cli, docker.no-engine,
        docker.permission, docker.version, docker.no-such-image, docker.login,
        docker.rate-limit, docker.registry, docker.platform, docker.no-space,
        docker.failed.
        """
        del scratch  # the export is unpacked as it comes
        reference = Reference.parse(base)
        docker = Docker(program=self._config.docker, environment=self._environment, base=base)
        image = await docker.find()
        if image is None or not image.is_for(context.platform):
            image = await _pulled(docker, image, wanted=context.platform, log=log)
        if not self._swept:
            self._swept = True
            await docker.remove_orphans(log)
        async with docker.container(image, log) as container:
            await _export(docker, container, rootfs)
        return BaseImage(env=image.env, digest=image.digest(reference), platform=image.platform)


async def _pulled(docker: Docker, local: Image | None, *, wanted: str, log: BuildLog) -> Image:
    try:
        await docker.pull(wanted, log)
    except FetchError as error:
        if local is None or error.code not in _NOT_TO_BE_HAD:
            raise
        raise _other_platform(docker, local, wanted, because=f" ({error.what})") from error
    image = await docker.find()
    if image is None:
        raise ImageError(
            "the image was removed from the engine just after it was pulled",
            where=docker.base,
            hint="build again, without pruning images at the same time",
            code="docker.no-such-image",
        )
    # Of an image for one platform only, engines pull whatever it is and are content.
    if not image.is_for(wanted):
        raise _other_platform(docker, image, wanted)
    return image


def _other_platform(docker: Docker, image: Image, wanted: str, *, because: str = "") -> ImageError:
    return ImageError(
        f"the image is for {image.platform}, wanted is {wanted}, and no other was found{because}",
        where=docker.base,
        hint=f"use an image that is made for {wanted}",
        code="docker.platform",
    )


async def _export(docker: Docker, container: str, rootfs: Path) -> None:
    """Stream the container's files into `rootfs`; the error that came first is the one raised."""
    problems: list[FetchError] = []
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb", buffering=0) as archive,
        os.fdopen(writer, "wb", buffering=0) as sink,
    ):

        async def send() -> None:
            try:
                await docker.export(container, sink.fileno())
            except FetchError as error:
                problems.append(error)
            finally:
                # Only now can the unpacker see the end, so an export that broke off
                # is in `problems` before the unpacker finds its stream too short.
                sink.close()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            try:
                await unpack(archive.fileno(), rootfs)
            except FetchError as error:
                error.where = error.where or docker.base
                problems.append(error)
                tasks.cancel_scope.cancel()
    if problems:
        # Who was cancelled had the stream end early: that is no problem.
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise problems[0]
