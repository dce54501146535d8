"""What a copy puts into an image, received by the real GNU tar and busybox's."""

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from obuilder import process
from obuilder._core.manifest import scan
from obuilder._core.transfer import RECEIVER, send
from obuilder.errors import SourceError
from obuilder.types import ROOT, User

pytestmark = pytest.mark.anyio

OLD_S = 1_000_000_000
HUGE = User(uid=2_097_152, gid=4_000_000_000)  # one more than seven octal digits hold


@dataclass(kw_only=True)
class Copy:
    """A source tree and an image; `receive` unpacks what a copy sends into the image."""

    source: Path
    rootfs: Path
    receive: Callable[[bytes], Awaitable[None]] = field(repr=False)
    receiver: str

    def archive(self, *sources: str, dst: str, user: User = ROOT) -> bytes:
        output = io.BytesIO()
        manifests = [scan(self.source, each) for each in sources]
        send(
            source=self.source,
            manifests=manifests,
            dst=dst,
            user=user,
            rootfs=self.rootfs,
            output=output,
        )
        return output.getvalue()

    async def copy(self, *sources: str, dst: str, user: User = ROOT) -> list[str]:
        """Copy, and return the names of the entries sent."""
        data = self.archive(*sources, dst=dst, user=user)
        await self.receive(data)
        return entries(data)

    def file(self, name: str, text: str = "", *, mode: int = 0o644) -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        os.utime(path, (OLD_S, OLD_S))
        return path


def entries(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [
            info.name + ("/" if info.isdir() else "@" if info.issym() else "") for info in archive
        ]


def describe(path: Path) -> tuple[str, int, int, int]:
    status = path.lstat()
    return stat.filemode(status.st_mode), status.st_uid, status.st_gid, int(status.st_mtime)


@pytest.fixture(params=["gnu", "busybox"])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Copy:
    rootfs = tmp_path / "rootfs"
    (rootfs / "usr" / "bin").mkdir(parents=True)
    (rootfs / "tmp").mkdir()
    (rootfs / "tmp").chmod(0o1777)
    (tmp_path / "src").mkdir()
    shutil.copy("/bin/busybox", rootfs / "usr" / "bin" / "busybox")
    (rootfs / "usr" / "bin" / "tar").symlink_to("busybox")
    (rootfs / "bin").symlink_to("usr/bin")  # as in a merged-usr image

    async def receive(data: bytes) -> None:
        if request.param == "gnu":
            done = await process.run([*RECEIVER, "-C", str(rootfs)], stdin=data)
        else:
            done = await process.run(["chroot", str(rootfs), *RECEIVER], stdin=data)
        assert done.stderr == b""

    return Copy(source=tmp_path / "src", rootfs=rootfs, receive=receive, receiver=request.param)


async def test_a_file_gets_owner_mode_and_time(copy: Copy) -> None:
    copy.file("plain", "text", mode=0o600)
    copy.file("program", "run", mode=0o4710)
    user = User(uid=12, gid=34)
    assert await copy.copy("plain", dst="/a", user=user) == ["a"]
    assert await copy.copy("program", dst="/b", user=user) == ["b"]
    assert describe(copy.rootfs / "a") == ("-rw-r--r--", 12, 34, OLD_S)
    assert describe(copy.rootfs / "b") == ("-rwxr-xr-x", 12, 34, OLD_S)
    assert (copy.rootfs / "a").read_text() == "text"


async def test_a_tree_gets_owner_modes_links_and_times(copy: Copy) -> None:
    copy.file("d/sub/f", "deep", mode=0o755)
    copy.file("d/g", "other")
    (copy.source / "d" / "empty").mkdir(mode=0o700)
    (copy.source / "d" / "link").symlink_to("/etc/nowhere")
    os.utime(copy.source / "d" / "link", (OLD_S, OLD_S), follow_symlinks=False)
    for name in ("sub", "empty", "."):
        os.utime(copy.source / "d" / name, (OLD_S, OLD_S))
    await copy.copy("d", dst="/to", user=User(uid=5, gid=6))
    to = copy.rootfs / "to"
    found = {str(path.relative_to(to)): describe(path) for path in [to, *to.rglob("*")]}
    if copy.receiver == "busybox":
        # Its tar sets a directory's time before it fills it, and of a link neither time nor owner.
        for name in (".", "sub"):
            found[name] = (*found[name][:3], OLD_S)
        found["link"] = (found["link"][0], 5, 6, OLD_S)
    assert found == {
        ".": ("drwxr-xr-x", 5, 6, OLD_S),
        "sub": ("drwxr-xr-x", 5, 6, OLD_S),
        "sub/f": ("-rwxr-xr-x", 5, 6, OLD_S),
        "g": ("-rw-r--r--", 5, 6, OLD_S),
        "empty": ("drwxr-xr-x", 5, 6, OLD_S),
        "link": ("lrwxrwxrwx", 5, 6, OLD_S),
    }
    assert (to / "link").readlink() == Path("/etc/nowhere")


async def test_user_ids_over_seven_octal_digits_are_kept(copy: Copy) -> None:
    copy.file("d/f")
    await copy.copy("d", dst="/d", user=HUGE)
    for name in ("d", "d/f"):
        status = (copy.rootfs / name).stat()
        assert (status.st_uid, status.st_gid) == (HUGE.uid, HUGE.gid)


@pytest.mark.parametrize(
    ("dst", "names"),
    [
        ("/", ["a", "d/", "d/f"]),
        ("/.", ["a", "d/", "d/f"]),
        ("//", ["a", "d/", "d/f"]),
        ("/./", ["a", "d/", "d/f"]),
        ("/x", ["x/", "x/a", "x/d/", "x/d/f"]),
        ("/x/", ["x/", "x/a", "x/d/", "x/d/f"]),
        ("/x/.", ["x/", "x/a", "x/d/", "x/d/f"]),
        ("/usr/../x/y", ["x/", "x/y/", "x/y/a", "x/y/d/", "x/y/d/f"]),
        ("/../../x", ["x/", "x/a", "x/d/", "x/d/f"]),
        ("/tmp", ["tmp/a", "tmp/d/", "tmp/d/f"]),
        ("/bin/", ["usr/bin/a", "usr/bin/d/", "usr/bin/d/f"]),
    ],
)
async def test_the_source_root_is_spread_into_the_destination(
    dst: str, names: list[str], copy: Copy
) -> None:
    copy.file("a")
    copy.file("d/f")
    assert await copy.copy(".", dst=dst) == names


@pytest.mark.parametrize(
    ("sources", "dst", "names"),
    [
        (["a"], "/x", ["x"]),
        (["a"], "/tmp/x", ["tmp/x"]),
        (["a"], "/tmp/", ["tmp/a"]),
        (["a"], "/n/m/", ["n/", "n/m/", "n/m/a"]),
        (["a", "d/f"], "/n/", ["n/", "n/a", "n/f"]),
        (["d"], "/n/", ["n/", "n/d/", "n/d/f"]),
        (["d"], "/n", ["n/", "n/f"]),
        (["d"], "/tmp", ["tmp/f"]),
        (["d", "a"], "/", ["d/", "d/f", "a"]),
        (["l"], "/x", ["x@"]),
    ],
)
async def test_each_source_goes_where_its_destination_says(
    sources: Sequence[str], dst: str, names: list[str], copy: Copy
) -> None:
    copy.file("a")
    copy.file("d/f")
    (copy.source / "l").symlink_to("a")
    assert await copy.copy(*sources, dst=dst) == names


async def test_a_link_to_a_directory_in_the_image_stays(copy: Copy) -> None:
    copy.file("new", "program")
    await copy.copy("new", dst="/bin/")
    assert (copy.rootfs / "bin").readlink() == Path("usr/bin")
    assert (copy.rootfs / "usr" / "bin" / "new").read_text() == "program"
    # Also when the source has a directory of that name.
    copy.file("root/bin/second")
    await copy.copy("root", dst="/")
    await copy.copy("root/bin", dst="/bin")
    assert (copy.rootfs / "bin").is_symlink()
    assert (copy.rootfs / "usr" / "bin" / "second").exists()


async def test_an_absolute_link_is_followed_inside_the_image(copy: Copy, tmp_path: Path) -> None:
    copy.file("f", "x")
    (copy.rootfs / "abs").symlink_to("/tmp")
    (copy.rootfs / "up").symlink_to("../../../../../tmp")
    (copy.rootfs / "later").symlink_to("/not/there")
    assert await copy.copy("f", dst="/abs/") == ["tmp/f"]
    assert await copy.copy("f", dst="/up/g") == ["tmp/g"]
    assert await copy.copy("f", dst="/later/") == ["not/", "not/there/", "not/there/f"]
    assert (copy.rootfs / "not" / "there" / "f").exists()


async def test_a_link_that_is_itself_the_destination_of_a_file_is_replaced(copy: Copy) -> None:
    copy.file("f", "new")
    target = copy.rootfs / "tmp" / "target"
    target.write_text("old")
    (copy.rootfs / "link").symlink_to("tmp/target")
    await copy.copy("f", dst="/link")
    assert not (copy.rootfs / "link").is_symlink()
    assert target.read_text() == "old"


async def test_an_existing_directory_keeps_mode_owner_and_entries(copy: Copy) -> None:
    copy.file("tmp/f")
    (copy.rootfs / "tmp" / "old").touch()
    os.chown(copy.rootfs / "tmp", 7, 8)
    assert await copy.copy("tmp/f", dst="/tmp/", user=User(uid=1, gid=1)) == ["tmp/f"]
    assert await copy.copy("tmp", dst="/", user=User(uid=1, gid=1)) == ["tmp/f"]
    mode, uid, gid, _ = describe(copy.rootfs / "tmp")
    assert (mode, uid, gid) == ("drwxrwxrwt", 7, 8)
    assert (copy.rootfs / "tmp" / "old").exists()


async def test_directories_on_the_way_are_the_users_and_0755(copy: Copy) -> None:
    copy.file("f")
    os.umask(os.umask(0o077))
    await copy.copy("f", dst="/one/two/f", user=User(uid=5, gid=6))
    for name in ("one", "one/two"):
        assert describe(copy.rootfs / name)[:3] == ("drwxr-xr-x", 5, 6)


async def test_a_directory_entry_has_the_type_of_one(copy: Copy) -> None:
    copy.file("d/f")
    with tarfile.open(fileobj=io.BytesIO(copy.archive("d", dst="/d"))) as archive:
        assert [(info.name, info.type) for info in archive] == [
            ("d", tarfile.DIRTYPE),
            ("d/f", tarfile.REGTYPE),
        ]


async def test_long_names_and_any_bytes_survive(copy: Copy) -> None:
    names = [b"x" * 255, b"\xff\xfe\n", "é你".encode(), b" -rf", b"a\\b*?"]
    long = "/".join(["y" * 200] * 8)
    copy.file(f"d/{long}/leaf", "deep")
    for name in names:
        copy.file(f"d/{os.fsdecode(name)}", repr(name))
    (copy.source / "d" / "l").symlink_to("z" * 3000)
    await copy.copy("d", dst="/d")
    assert (copy.rootfs / "d" / long / "leaf").read_text() == "deep"
    assert (copy.rootfs / "d" / "l").readlink() == Path("z" * 3000)
    for name in names:
        assert (copy.rootfs / "d" / os.fsdecode(name)).read_text() == repr(name)


async def test_large_and_empty_files_keep_every_byte(copy: Copy) -> None:
    sizes = [0, 1, 511, 512, 513, 16384, 16385, 3_000_001]
    contents = {f"f{size}": os.urandom(size) for size in sizes}
    (copy.source / "d").mkdir()
    for name, data in contents.items():
        (copy.source / "d" / name).write_bytes(data)
    await copy.copy("d", dst="/d")
    assert {path.name: path.read_bytes() for path in (copy.rootfs / "d").iterdir()} == contents


@pytest.mark.parametrize("second", [-5, 0, 2**33, 2**33 + 1])
async def test_times_before_1970_and_after_2242_are_kept(second: int, copy: Copy) -> None:
    os.utime(copy.file("f"), ns=(0, second * 10**9 + 999_999_999))
    with tarfile.open(fileobj=io.BytesIO(copy.archive("f", dst="/f"))) as archive:
        assert next(iter(archive)).mtime == second


@pytest.mark.parametrize("links", [("a", "a"), ("a", "b"), ("./a/x", "b")])
async def test_links_that_go_round_are_an_error_with_the_path(
    links: tuple[str, str], copy: Copy
) -> None:
    copy.file("f")
    (copy.rootfs / "a").symlink_to(links[1])
    (copy.rootfs / "b").symlink_to(links[0])
    with pytest.raises(SourceError, match="/a/") as caught:
        copy.archive("f", dst="/a/")
    assert caught.value.code == "copy.link-loop"


async def test_a_file_cannot_become_the_root_directory(copy: Copy) -> None:
    copy.file("f")
    for dst in ("/.", "/x/..", "/../."):
        with pytest.raises(SourceError) as caught:
            copy.archive("f", dst=dst)
        assert caught.value.code == "copy.onto-root"
        assert caught.value.hint


async def test_a_destination_with_a_name_too_long_is_an_error_that_says_so(copy: Copy) -> None:
    copy.file("f")
    with pytest.raises(SourceError, match="too long") as caught:
        copy.archive("f", dst=f"/{'x' * 300}/f")
    assert caught.value.code == "copy.dst"


def test_the_same_copy_gives_the_same_stream(tmp_path: Path) -> None:
    (tmp_path / "src" / "d").mkdir(parents=True)
    (tmp_path / "src" / "d" / "f").write_text("x")
    (tmp_path / "rootfs").mkdir()
    manifest = scan(tmp_path / "src", "d")
    streams = []
    for _ in range(2):
        output = io.BytesIO()
        send(
            source=tmp_path / "src",
            manifests=[manifest],
            dst="/x",
            user=ROOT,
            rootfs=tmp_path / "rootfs",
            output=output,
        )
        streams.append(output.getvalue())
    assert streams[0] == streams[1]
