"""`(from archive:PATH)`: a tarball that lies where the spec may reach becomes a base image."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from obuilder.errors import FetchError, ImageError
from obuilder.interfaces import BuildLog, Fetcher
from obuilder.types import BaseImage, Env, FetchContext
from obuilder.unpack import Unpacked, unpack
from obuilder_fetcher_archive.bounds import Bounds
from obuilder_fetcher_archive.environment import DEFAULT_ENV, parse_env
from obuilder_fetcher_archive.platform import platform_of

__all__ = ["ArchiveFetcher"]

_FORM = "archive:PATH or archive:PATH?sha256=HEX"
_ENV_LIMIT_BYTES = 1 << 20
_DOCKER_SAVE = ("manifest.json", "oci-layout", "repositories")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """What a base's text says."""

    path: str
    sha256: str | None


class ArchiveFetcher(Fetcher["ArchiveFetcher.Config"]):
    """Unpacks a root file system tarball (plain, gzip or xz). Needs root."""

    API: ClassVar[int] = 1
    scheme: ClassVar[str | None] = "archive"

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """The section `archive` of the settings."""

        roots: tuple[str, ...] = ()
        """Absolute directories that a spec may take archives from, beside its own
        directory and the source directory."""

        def __post_init__(self) -> None:
            for root in self.roots:
                if not root.startswith("/"):
                    raise ValueError(f"roots: {root!r} is not an absolute path")

    def __init__(self, config: Config) -> None:
        self._config = config

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config) -> AsyncIterator[Self]:
        """Open the fetcher."""
        yield cls(config)

    async def fetch(
        self, base: str, rootfs: Path, *, log: BuildLog, scratch: Path, context: FetchContext
    ) -> BaseImage:
        """Unpack the archive that `base` names into `rootfs`; see `Fetcher.fetch`.

        Environment: the file PATH.env if there is one, else a PATH. Digest: of
        the archive's bytes. Platform: of the programs in it.
        On failure: FetchError with the codes of `obuilder.unpack`, or
        archive.invalid-base, archive.no-directory, archive.out-of-bounds,
        archive.not-found, archive.not-a-file, archive.unreadable,
        archive.digest, archive.invalid-env.
        """
        del log, scratch  # one pass, nothing to tell
        wanted = _parse(base)
        bounds = Bounds.of(context, self._config.roots)
        path = bounds.locate(wanted.path)
        descriptor = bounds.open(path)
        try:
            env = _environment(bounds, path)
            unpacked = await unpack(descriptor, rootfs)
        except FetchError as error:
            error.where = error.where or str(path)
            raise
        finally:
            os.close(descriptor)
        _check(unpacked, wanted, path)
        _refuse_saved_image(rootfs, path)
        return BaseImage(env=env, digest=f"sha256:{unpacked.sha256}", platform=platform_of(rootfs))


def _parse(base: str) -> _Base:
    scheme, colon, rest = base.partition(":")
    path, mark, query = rest.rpartition("?") if "?" in rest else (rest, "", "")
    pinned = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", query)
    if not colon or scheme != "archive":
        problem = "this fetcher takes archives only"
    elif not path or "\0" in path:
        problem = "it names no file"
    elif mark and not pinned:
        problem = f"{query!r} is not sha256= and 64 hexadecimal digits"
    else:
        return _Base(path=path, sha256=pinned.group(1).lower() if pinned else None)
    raise ImageError(
        f"cannot use the base {base!r}: {problem}",
        hint=f"write {_FORM}",
        code="archive.invalid-base",
    )


def _environment(bounds: Bounds, archive: Path) -> Env:
    path = archive.with_name(archive.name + ".env")
    if not os.path.lexists(path):
        return DEFAULT_ENV
    with os.fdopen(bounds.open(path), "rb") as file:
        data = file.read(_ENV_LIMIT_BYTES + 1)
    if len(data) > _ENV_LIMIT_BYTES:
        raise ImageError(
            "an environment file has at most 1 MiB", where=str(path), code="archive.invalid-env"
        )
    return parse_env(data, where=str(path))


def _check(unpacked: Unpacked, wanted: _Base, path: Path) -> None:
    if wanted.sha256 in (None, unpacked.sha256):
        return
    raise ImageError(
        f"the archive is not the pinned one: sha256 {unpacked.sha256}, wanted {wanted.sha256}",
        where=str(path),
        hint="bring the pinned archive back, or pin this one if you trust it",
        code="archive.digest",
    )


def _refuse_saved_image(rootfs: Path, path: Path) -> None:
    """`docker save` makes a tarball of tarballs, which is easily taken for a root."""
    saved = any((rootfs / name).is_file() for name in _DOCKER_SAVE)
    if saved and not any(os.path.lexists(rootfs / name) for name in ("bin", "etc", "usr")):
        raise ImageError(
            "this is a saved image (layers), not a root file system",
            where=str(path),
            hint="docker create IMAGE, then docker export CONTAINER > root.tar",
            code="archive.unsupported",
        )
