"""What tests of the docker fetcher need: a fetch, a foreign image, who is running."""

import io
import json
import os
import tarfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from obuilder._platforms import machine_platform
from obuilder.testing._logs import MemoryLog
from obuilder.types import BaseImage, FetchContext
from obuilder_fetcher_docker import DockerFetcher

__all__ = ["ABSENT_PLATFORM", "PLATFORM", "Fetch", "foreign_image", "running"]

PLATFORM = machine_platform()
ABSENT_PLATFORM = "linux/s390x"


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
            command = (process / "cmdline").read_bytes()
            text = command + (process / "environ").read_bytes()
        except OSError:  # it has ended
            continue
        if process.name != str(os.getpid()) and any(mark.encode() in text for mark in marks):
            found.append(command.decode())
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
