"""What tests of the docker fetcher need: a log, a fetch, a foreign image, who is running."""

import io
import json
import os
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import anyio

from obuilder.interfaces import BuildLog
from obuilder.types import BaseImage, FetchContext
from obuilder_fetcher_docker import DockerFetcher

__all__ = ["ABSENT_PLATFORM", "PLATFORM", "Fetch", "MemoryLog", "foreign_image", "running"]

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
PLATFORM = "linux/" + _MACHINES.get(os.uname().machine, os.uname().machine)
ABSENT_PLATFORM = "linux/s390x"


class MemoryLog(BuildLog):
    """Keeps what it is given; `wrote` is set with the first output."""

    def __init__(self) -> None:
        self.data = b""
        self.notes: list[str] = []
        self.wrote = anyio.Event()

    async def output(self, data: bytes) -> None:
        self.data += data
        self.wrote.set()

    async def note(self, text: str) -> None:
        self.notes.append(text)

    @asynccontextmanager
    async def pipe(self) -> AsyncIterator[int]:
        reader, writer = os.pipe()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._copy, reader)
            try:
                yield writer
            finally:
                os.close(writer)

    async def _copy(self, reader: int) -> None:
        try:
            with anyio.CancelScope(shield=True):
                while True:
                    await anyio.wait_readable(reader)
                    data = os.read(reader, 65536)
                    if not data:
                        return
                    await self.output(data)
        finally:
            os.close(reader)


@dataclass
class Fetch:
    """One fetch into a directory of its own; call it with the base."""

    directory: Path
    host: str | None = None
    docker: str = "docker"
    platform: str = PLATFORM
    log: MemoryLog = field(default_factory=MemoryLog)

    @property
    def rootfs(self) -> Path:
        return self.directory / "rootfs"

    async def __call__(self, base: str) -> BaseImage:
        self.rootfs.mkdir()
        scratch = self.directory / "scratch"
        scratch.mkdir()
        config = DockerFetcher.Config(docker=self.docker, host=self.host)
        context = FetchContext(platform=self.platform)
        async with DockerFetcher.open(config) as fetcher:
            return await fetcher.fetch(
                base, self.rootfs, log=self.log, scratch=scratch, context=context
            )


def running(*marks: str) -> list[str]:
    """The processes that name one of `marks` in their arguments or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:  # it has ended
            continue
        if process.name != str(os.getpid()) and any(mark.encode() in text for mark in marks):
            found.append((process / "cmdline").read_bytes().decode())
    return found


def foreign_image(name: str) -> bytes:
    """What `docker load` reads: an image of one file for ABSENT_PLATFORM."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("only"))
    operating_system, architecture = ABSENT_PLATFORM.split("/")
    config = {
        "os": operating_system,
        "architecture": architecture,
        "config": {},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{sha256(layer.getvalue()).hexdigest()}"],
        },
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer.getvalue(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    image = io.BytesIO()
    with tarfile.open(fileobj=image, mode="w") as archive:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return image.getvalue()
