"""The archive fetcher: which files a spec may name, and what it learns from them."""

import contextlib
import gzip
import hashlib
import io
import os
import tarfile
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

import anyio
import pytest

from obuilder.errors import FetchError
from obuilder.interfaces import BuildLog
from obuilder.types import BaseImage, FetchContext
from obuilder_fetcher_archive import ArchiveFetcher

pytestmark = pytest.mark.anyio

DEFAULT_ENV = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)
LIMIT_S = 20.0


class SilentLog(BuildLog):
    """The fetcher has nothing to tell."""

    async def output(self, data: bytes) -> None:
        raise AssertionError(data)

    async def note(self, text: str) -> None:
        raise AssertionError(text)

    def pipe(self) -> AbstractAsyncContextManager[int]:
        raise AssertionError


def tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            file.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            file.addfile(info)
    return out.getvalue()


def elf(machine: int, *, bits: int = 64, little: bool = True) -> bytes:
    head = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1 if little else 2, 1]) + bytes(9)
    order: Literal["little", "big"] = "little" if little else "big"
    return head + (2).to_bytes(2, order) + machine.to_bytes(2, order) + bytes(100)


class Place:
    """A spec's directory, a source directory, one directory more, and an empty root."""

    def __init__(self, top: Path) -> None:
        self.spec, self.source, self.other = top / "spec", top / "source", top / "other"
        self.rootfs, self.scratch = top / "rootfs", top / "scratch"
        for path in (self.spec, self.source, self.other, self.rootfs, self.scratch):
            path.mkdir()
        self.context = FetchContext(
            platform="linux/amd64", spec_dir=self.spec, source_dir=self.source
        )

    async def fetch(self, base: str, *, roots: tuple[str, ...] = ()) -> BaseImage:
        config = ArchiveFetcher.Config(roots=roots)
        with anyio.fail_after(LIMIT_S):
            async with ArchiveFetcher.open(config) as fetcher:
                return await fetcher.fetch(
                    base,
                    self.rootfs,
                    log=SilentLog(),
                    scratch=self.scratch,
                    context=self.context,
                )

    async def failure(self, base: str, *, roots: tuple[str, ...] = ()) -> FetchError:
        with pytest.raises(FetchError) as caught:
            await self.fetch(base, roots=roots)
        return caught.value


@pytest.fixture
def place(tmp_path: Path) -> Place:
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("unpacking needs root")
        pytest.skip("unpacking needs root")
    return Place(tmp_path)


def test_driver_is_found_by_its_entry_point() -> None:
    (found,) = entry_points(group="obuilder.fetchers", name="archive")
    assert found.load() is ArchiveFetcher
    assert (ArchiveFetcher.scheme, ArchiveFetcher.API) == ("archive", 1)


async def test_archive_beside_the_spec_becomes_the_root(place: Place) -> None:
    data = gzip.compress(tar({"bin/sh": elf(62), "etc/motd": b"hello"}))
    (place.spec / "root.tar.gz").write_bytes(data)
    image = await place.fetch("archive:root.tar.gz")
    assert image == BaseImage(
        env=DEFAULT_ENV,
        digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
        platform="linux/amd64",
    )
    assert (place.rootfs / "etc/motd").read_bytes() == b"hello"
    assert list(place.scratch.iterdir()) == []


@pytest.mark.parametrize("where", ["source", "root", "link to root", "up and down"])
async def test_archive_may_lie_below_the_named_directories(place: Place, where: str) -> None:
    home = place.source if where == "source" else place.other / "deep" / "er"
    home.mkdir(parents=True, exist_ok=True)
    (home / "r.tar").write_bytes(tar({"f": b"x"}))
    (place.source / "link").symlink_to(home / "r.tar")
    base = {
        "source": f"archive:{home}/r.tar",
        "root": f"archive:{home}/r.tar",
        "link to root": f"archive:{place.source}/link",
        "up and down": "archive:../other/deep/er/r.tar",
    }[where]
    image = await place.fetch(base, roots=() if where == "source" else (str(place.other),))
    assert image.platform is None
    assert (place.rootfs / "f").read_bytes() == b"x"


@pytest.mark.parametrize("how", ["absolute", "dots", "link", "link to directory", "sibling"])
async def test_archive_out_of_bounds_is_refused_with_the_way_to_allow_it(
    place: Place, how: str
) -> None:
    home = place.other if how != "sibling" else place.spec.with_name("spec-more")
    home.mkdir(exist_ok=True)
    (home / "r.tar").write_bytes(tar({"f": b"x"}))
    (place.spec / "link.tar").symlink_to(home / "r.tar")
    (place.spec / "link").symlink_to(home)
    path = {
        "absolute": f"{home}/r.tar",
        "sibling": f"{home}/r.tar",
        "dots": "../other/r.tar",
        "link": "link.tar",
        "link to directory": "link/r.tar",
    }[how]
    error = await place.failure(f"archive:{path}")
    assert error.code == "archive.out-of-bounds"
    assert error.hint == f'allow its directory: archive.roots = ["{home}"]'
    assert list(place.rootfs.iterdir()) == []


async def test_what_is_no_regular_file_is_refused_unopened(place: Place) -> None:
    os.mkfifo(place.spec / "fifo")
    (place.spec / "directory").mkdir()
    for name in ("fifo", "directory", "."):
        assert (await place.failure(f"archive:{name}")).code == "archive.not-a-file"
    assert (await place.failure("archive:/", roots=("/",))).code == "archive.not-a-file"
    assert (await place.failure("archive:/dev/null")).code == "archive.out-of-bounds"


async def test_missing_archive_is_reported_by_its_place(place: Place) -> None:
    error = await place.failure("archive:none.tar")
    assert (error.code, error.where) == ("archive.not-found", str(place.spec / "none.tar"))
    (place.spec / "loop").symlink_to("loop")
    assert (await place.failure("archive:loop")).code == "archive.not-a-file"
    long = "x" * 300
    assert (await place.failure(f"archive:{long}")).code == "archive.unreadable"


async def test_spec_from_standard_input_starts_at_the_source_directory(place: Place) -> None:
    (place.source / "r.tar").write_bytes(tar({"f": b"x"}))
    place.context = replace(place.context, spec_dir=None)
    await place.fetch("archive:r.tar")
    place.context = replace(place.context, source_dir=None)
    assert (await place.failure("archive:r.tar")).code == "archive.no-directory"
    assert (await place.failure(f"archive:{place.source}/r.tar")).code == "archive.out-of-bounds"


@pytest.mark.parametrize(
    "base",
    [
        "debian:bookworm",
        "debian",
        "archive:",
        "archive:?sha256=" + "0" * 64,
        "archive:r.tar?sha256=12",
        "archive:r.tar?md5=12",
        "archive:r.tar?",
        "archive:a\0b",
    ],
)
async def test_base_of_another_form_is_refused(place: Place, base: str) -> None:
    error = await place.failure(base)
    assert error.code == "archive.invalid-base"
    assert "archive:PATH?sha256=HEX" in (error.hint or "")


async def test_pinned_archive_must_be_the_one(place: Place) -> None:
    data = tar({"f": b"x"})
    (place.spec / "r.tar").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert (await place.fetch(f"archive:r.tar?sha256={digest}")).digest == f"sha256:{digest}"
    await place.fetch(f"archive:r.tar?sha256={digest.upper()}")
    error = await place.failure("archive:r.tar?sha256=" + "0" * 64)
    assert error.code == "archive.digest"
    assert digest in error.what
    assert "0" * 64 in error.what


async def test_environment_file_beside_the_archive_is_used(place: Place) -> None:
    (place.spec / "r.tar").write_bytes(tar({"f": b"x"}))
    (place.spec / "r.tar.env").write_bytes(
        b"# from docker\nPATH=/bin\n\nA= b = c \r\n  # more\nB=\nC=\xff\n"
    )
    image = await place.fetch("archive:r.tar")
    assert image.env == (("PATH", "/bin"), ("A", " b = c "), ("B", ""), ("C", "\udcff"))
    (place.spec / "r.tar.env").write_bytes(b"")
    assert (await place.fetch("archive:r.tar")).env == ()


@pytest.mark.parametrize("line", [b"export A=b", b"A", b"=b", b"A=\0", b"PATH=again", b" A=b"])
async def test_environment_file_is_checked_line_by_line(place: Place, line: bytes) -> None:
    (place.spec / "r.tar").write_bytes(tar({"f": b"x"}))
    (place.spec / "r.tar.env").write_bytes(b"PATH=/bin\n\n" + line + b"\n")
    error = await place.failure("archive:r.tar")
    assert error.code == "archive.invalid-env"
    assert error.where == f"{place.spec}/r.tar.env:3"


async def test_environment_file_is_in_bounds_too(place: Place) -> None:
    (place.spec / "r.tar").write_bytes(tar({"f": b"x"}))
    (place.other / "secret").write_bytes(b"PASSWORD=1\n")
    (place.spec / "r.tar.env").symlink_to(place.other / "secret")
    assert (await place.failure("archive:r.tar")).code == "archive.out-of-bounds"
    (place.spec / "r.tar.env").unlink()
    (place.spec / "r.tar.env").write_bytes(b"A=" + bytes(2 << 20))
    assert (await place.failure("archive:r.tar")).code == "archive.invalid-env"


@pytest.mark.parametrize(
    ("program", "platform"),
    [
        (elf(62), "linux/amd64"),
        (elf(183), "linux/arm64"),
        (elf(3, bits=32), "linux/386"),
        (elf(40, bits=32), "linux/arm"),
        (elf(22, little=False), "linux/s390x"),
        (elf(21), "linux/ppc64le"),
        (elf(243), "linux/riscv64"),
        (elf(62, bits=32), None),
        (b"#!/bin/true\n", None),
        (b"\x7fELF", None),
    ],
)
async def test_platform_is_that_of_the_shell(
    place: Place, program: bytes, platform: str | None
) -> None:
    links = {"bin": "usr/bin", "usr/bin/sh": "/../bin/dash"}
    (place.spec / "r.tar").write_bytes(tar({"usr/bin/dash": program}, links))
    assert (await place.fetch("archive:r.tar")).platform == platform


async def test_platform_is_never_read_outside_the_root(place: Place) -> None:
    (place.other / "sh").write_bytes(elf(62))
    links = {
        "bin/sh": f"../../../../../../..{place.other}/sh",
        "usr/bin/env": str(place.other / "sh"),
        "bin/busybox": "busybox",
        "usr/bin/bash": "/",
    }
    (place.spec / "r.tar").write_bytes(tar({"f": b""}, links))
    assert (await place.fetch("archive:r.tar")).platform is None


async def test_damaged_archive_is_reported_by_its_place(place: Place) -> None:
    (place.spec / "r.tar").write_bytes(gzip.compress(tar({"f": b"x"}))[:-5])
    error = await place.failure("archive:r.tar")
    assert (error.code, error.where) == ("archive.truncated", str(place.spec / "r.tar"))


async def test_saved_docker_image_is_told_from_a_root(place: Place) -> None:
    (place.spec / "r.tar").write_bytes(tar({"manifest.json": b"[]", "oci-layout": b"{}"}))
    error = await place.failure("archive:r.tar")
    assert error.code == "archive.unsupported"
    assert "docker export" in (error.hint or "")


def test_root_in_the_settings_must_be_absolute() -> None:
    # The core reports it with the place that set it, before a build begins.
    with pytest.raises(ValueError, match="'images' is not an absolute path"):
        ArchiveFetcher.Config(roots=("images",))


async def test_no_descriptor_is_left_open(place: Place) -> None:
    (place.spec / "r.tar").write_bytes(tar({"f": b"x"}))
    (place.spec / "cut.tar").write_bytes(tar({"f": b"x"})[:700])
    os.mkfifo(place.spec / "fifo")
    await place.fetch("archive:r.tar")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("r.tar", "cut.tar", "fifo", "none", "/etc/passwd"):
        with contextlib.suppress(FetchError):
            await place.fetch(f"archive:{name}")
    assert len(os.listdir("/proc/self/fd")) == before
